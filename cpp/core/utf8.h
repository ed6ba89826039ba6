// Checking and writing of UTF-8, one character at a time. Used by the JSON parser and the GGUF reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pagoda {

/// Length in bytes of the well-formed UTF-8 character that `text` begins with; 0 when there is none (empty text, stray
/// continuation, overlong form, surrogate, beyond U+10FFFF, or cut short).
inline size_t utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  if (length == 0 || text.size() < length) return 0;
  // The second byte's range rules out overlong forms, surrogates and values beyond U+10FFFF.
  const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  if (byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  return length;
}

/// Offset of the first byte that is not part of well-formed UTF-8; `text.size()` when all of it is.
inline size_t utf8_valid_prefix(std::string_view text) {
  size_t at = 0;
  while (size_t length = utf8_length(text.substr(at))) at += length;
  return at;
}

/// Appends a Unicode scalar value (not a surrogate, at most U+10FFFF).
inline void append_utf8(std::string& out, uint32_t scalar) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | (scalar >> shift & 0x3f)); };
  if (scalar < 0x80) {
    out += static_cast<char>(scalar);
  } else if (scalar < 0x800) {
    out += static_cast<char>(0xc0 | scalar >> 6);
    tail(0);
  } else if (scalar < 0x10000) {
    out += static_cast<char>(0xe0 | scalar >> 12);
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xf0 | scalar >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

}  // namespace pagoda
