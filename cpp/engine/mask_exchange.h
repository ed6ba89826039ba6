// Between the engine and those who decide what a sequence may draw next (a grammar, outside of the engine): tokens out, masks
// of the vocabulary back. The engine's thread posts and waits; any number of worker threads take jobs and finish them.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace pagoda {

class MaskExchange;

/// What one sequence may draw next. Between post() and its answer the words belong to the worker, else to the engine.
class TokenMask : public std::enable_shared_from_this<TokenMask> {
 public:
  enum class State : uint8_t {
    pending,  ///< posted and not answered
    ready,    ///< words() say which tokens are allowed
    ended,    ///< the output is complete, no token may follow
    failed,   ///< see error()
  };

  TokenMask(std::shared_ptr<MaskExchange> exchange, std::string request_id, int32_t choice, size_t num_words);

  /// Asks for the mask behind `token`, the sequence's newest; kNoToken asks for the first mask.
  void post(int32_t token);
  /// The answer to the last post, waited for until `deadline`; a missing one makes the mask fail for good.
  State wait(std::chrono::steady_clock::time_point deadline);
  /// Says that the sequence has ended. Not followed by any other call of the engine's.
  void close();
  /// Bit t of word t / 32 allows token t.
  std::span<const uint32_t> words() const { return words_; }
  const std::string& error() const { return error_; }

  static constexpr int32_t kNoToken = -1;
  static constexpr int32_t kClosed = -2;

 private:
  friend class MaskExchange;
  friend class MaskJob;

  std::shared_ptr<MaskExchange> exchange_;
  std::string request_id_;
  int32_t choice_;
  std::vector<uint32_t> words_;
  State state_ = State::ready;  // under the exchange's mutex, as is error_ until the wait has returned
  std::string error_;
};

/// One token for a worker to take in. Holds the mask alive until it is finished or dropped.
class MaskJob {
 public:
  MaskJob(std::shared_ptr<TokenMask> mask, std::string request_id, int32_t choice, int32_t token);

  const std::string& request_id() const { return request_id_; }
  int32_t choice() const { return choice_; }
  /// The sequence's newest token; TokenMask::kNoToken before the first, kClosed when the sequence has ended.
  int32_t token() const { return token_; }
  /// Where to write the mask, before finish(). Empty for kClosed.
  std::span<uint32_t> words() const;
  /// Answers: the words are written, or the output has ended, or `error` says what failed. Any thread, once.
  void finish(bool ended, std::string error) const;

 private:
  friend class MaskExchange;

  std::shared_ptr<TokenMask> mask_;
  std::string request_id_;
  int32_t choice_;
  int32_t token_;
  std::chrono::steady_clock::time_point posted_ = std::chrono::steady_clock::now();
};

/// Always owned by a shared_ptr: masks point back to it.
class MaskExchange : public std::enable_shared_from_this<MaskExchange> {
 public:
  explicit MaskExchange(int64_t vocab_size);

  /// The mask of a sequence, its first answer asked for. Engine thread.
  std::shared_ptr<TokenMask> open(const std::string& request_id, int32_t choice);
  /// Says that a sequence has ended, also one that was never opened. Engine thread.
  void close(const std::string& request_id, int32_t choice);
  /// At most `most` jobs in the order of their posts, after waiting up to `timeout_ms` for one that is at least `min_age_ms`
  /// old. nullopt after stop(). Worker. A worker with a `min_age_ms` steps in when the others are held up, and looks only
  /// every `min_age_ms`.
  std::optional<std::vector<MaskJob>> take(size_t most, int timeout_ms, int min_age_ms = 0);
  /// No answer is waited for any more, and workers shall end. Any thread.
  void stop();

 private:
  friend class TokenMask;
  friend class MaskJob;

  void push(MaskJob job);

  size_t num_words_;
  std::mutex mutex_;
  std::condition_variable jobs_cv_;     // workers wait for jobs
  std::condition_variable late_cv_;     // workers wait for late jobs, and are woken by stop() alone
  std::condition_variable answers_cv_;  // the engine waits for answers
  std::deque<MaskJob> jobs_;
  bool stopped_ = false;
};

}  // namespace pagoda
