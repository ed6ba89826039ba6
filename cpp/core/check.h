// Errors of four kinds and the checks that raise them.
// Every layer throws these; cpp/bindings maps them once to Python, the server once to HTTP (see docs/ARCHITECTURE.md, Errors).
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace pagoda {

/// The caller gave something that is not allowed. The text says what was given and what is allowed. HTTP 400.
struct InvalidArgument : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// A bounded resource (the waiting queue) is full; trying later may succeed. HTTP 429.
struct Overloaded : std::runtime_error {
  explicit Overloaded(const std::string& text, double retry_after_seconds = 1)
      : std::runtime_error(text), retry_after(retry_after_seconds) {}
  double retry_after;  ///< seconds after which trying again makes sense
};

/// The device failed; the engine cannot go on. HTTP 503.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A broken invariant of our own. HTTP 500.
struct InternalError : std::logic_error {
  using std::logic_error::logic_error;
};

/// Concatenates its arguments through operator<<: `str("got ", n, " rows")`.
template <class... Args>
std::string str(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return std::move(out).str();
}

/// Throws InvalidArgument with the concatenated text unless `ok`. The text's arguments are evaluated in any case: what is
/// costly to make is given as something whose operator<< makes it (describe() in backend/ops.cc), or behind an `if`.
template <class... Args>
void require(bool ok, const Args&... text) {
  if (!ok) throw InvalidArgument(str(text...));
}

/// Throws InternalError with the concatenated text unless `ok`. For invariants, never for user input.
template <class... Args>
void ensure(bool ok, const Args&... text) {
  if (!ok) throw InternalError(str(text...));
}

}  // namespace pagoda
