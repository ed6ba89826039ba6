// One mutex for all masks: it is held for a few instructions at a time, never while a mask is computed.
#include "engine/mask_exchange.h"

#include <utility>

namespace pagoda {

TokenMask::TokenMask(std::shared_ptr<MaskExchange> exchange, std::string request_id, int32_t choice, size_t num_words)
    : exchange_(std::move(exchange)), request_id_(std::move(request_id)), choice_(choice), words_(num_words) {}

void TokenMask::post(int32_t token) { exchange_->push({shared_from_this(), request_id_, choice_, token}); }

TokenMask::State TokenMask::wait(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(exchange_->mutex_);
  exchange_->answers_cv_.wait_until(lock, deadline, [this] { return state_ != State::pending || exchange_->stopped_; });
  if (state_ == State::pending) {
    state_ = State::failed;
    error_ = "the allowed tokens were not computed in time";
  }
  return state_;
}

void TokenMask::close() { exchange_->close(request_id_, choice_); }

MaskJob::MaskJob(std::shared_ptr<TokenMask> mask, std::string request_id, int32_t choice, int32_t token)
    : mask_(std::move(mask)), request_id_(std::move(request_id)), choice_(choice), token_(token) {}

std::span<uint32_t> MaskJob::words() const { return mask_ ? std::span(mask_->words_) : std::span<uint32_t>(); }

void MaskJob::finish(bool ended, std::string error) const {
  using State = TokenMask::State;
  if (!mask_) return;
  MaskExchange& exchange = *mask_->exchange_;
  {
    const std::scoped_lock lock(exchange.mutex_);
    if (mask_->state_ != State::pending) return;  // too late
    mask_->state_ = !error.empty() ? State::failed : ended ? State::ended : State::ready;
    mask_->error_ = std::move(error);
  }
  exchange.answers_cv_.notify_one();
}

MaskExchange::MaskExchange(int64_t vocab_size) : num_words_(static_cast<size_t>((vocab_size + 31) / 32)) {}

std::shared_ptr<TokenMask> MaskExchange::open(const std::string& request_id, int32_t choice) {
  auto mask = std::make_shared<TokenMask>(shared_from_this(), request_id, choice, num_words_);
  mask->post(TokenMask::kNoToken);
  return mask;
}

void MaskExchange::close(const std::string& request_id, int32_t choice) {
  push({nullptr, request_id, choice, TokenMask::kClosed});
}

void MaskExchange::push(MaskJob job) {
  {
    const std::scoped_lock lock(mutex_);
    if (job.mask_) job.mask_->state_ = TokenMask::State::pending;
    if (!stopped_) jobs_.push_back(std::move(job));  // a job that nobody takes would keep its mask, and that the exchange
  }
  jobs_cv_.notify_one();
}

std::optional<std::vector<MaskJob>> MaskExchange::take(size_t most, int timeout_ms, int min_age_ms) {
  using std::chrono::milliseconds;
  using std::chrono::steady_clock;
  const milliseconds min_age(min_age_ms);
  const auto deadline = steady_clock::now() + milliseconds(timeout_ms);
  std::unique_lock lock(mutex_);
  const auto due = [&] {
    return !jobs_.empty() && (min_age_ms == 0 || jobs_.front().posted_ + min_age <= steady_clock::now());
  };
  if (min_age_ms == 0) {
    jobs_cv_.wait_until(lock, deadline, [&] { return stopped_ || due(); });
  } else {
    while (!stopped_ && !due() && steady_clock::now() < deadline) late_cv_.wait_for(lock, min_age);
  }
  if (stopped_) return std::nullopt;
  std::vector<MaskJob> taken;
  while (taken.size() < most && due()) {
    taken.push_back(std::move(jobs_.front()));
    jobs_.pop_front();
  }
  return taken;
}

void MaskExchange::stop() {
  {
    const std::scoped_lock lock(mutex_);
    stopped_ = true;
    jobs_.clear();
  }
  jobs_cv_.notify_all();
  late_cv_.notify_all();
  answers_cv_.notify_all();
}

}  // namespace pagoda
