// A whole small model through the engine: the CPU's greedy tokens where the choice is clear, and bitwise the same answers
// however requests are run.
#include <filesystem>
#include <map>

#include "device_support.h"
#include "engine/startup.h"
#include "random_model.h"

namespace pagoda::device_test {
namespace {

constexpr int kMaxTokens = 8;

/// What a request got: tokens, each with its logprob and the runner-up's.
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs, seconds;

  bool operator==(const Answer& other) const {
    return tokens == other.tokens && same_bits(logprobs, other.logprobs) && same_bits(seconds, other.seconds);
  }
};

class WholeModel : public DeviceTest {
 protected:
  static ModelShape shape() {
    if (is_emulated()) return {320, 64, 160, 2, 4, 2, 16, 256};
    return {32000, 1024, 2816, 8, 16, 4, 64, 2048};
  }

  static EngineOptions options_of(const std::string& device) {
    EngineOptions options;
    options.device = device;
    options.num_kv_blocks = is_emulated() ? 64 : 600;
    options.max_model_len = is_emulated() ? 96 : 600;
    options.max_num_batched_tokens = is_emulated() ? 64 : 2048;
    options.max_num_seqs = is_emulated() ? 8 : 64;
    options.deterministic = true;
    options.prefix_cache = false;
    return options;
  }
  static EngineOptions gpu_options() { return options_of(is_emulated() ? "cuda-emu" : "cuda"); }

  /// Prompts of several lengths; each request with other sampling, if `sampled`.
  static std::vector<Request> requests(bool sampled) {
    std::vector<Request> all;
    const std::vector<int> lengths = is_emulated() ? std::vector{21, 1, 9, 33} : std::vector{21, 1, 300, 129, 64, 7, 480, 2};
    std::mt19937 random(5);
    for (const int length : lengths) {
      Request request;
      request.id = std::to_string(all.size());
      for (int i = 0; i < length; ++i)
        request.prompt.push_back(static_cast<int32_t>(random() % static_cast<unsigned>(shape().vocab)));
      request.params.temperature = sampled ? 0.8 : 0;
      request.params.top_p = all.size() % 2 ? 0.9 : 1;
      request.params.repetition_penalty = sampled && all.size() % 3 == 2 ? 1.2 : 1;
      request.params.seed = 40 + std::ssize(all);
      request.params.max_tokens = kMaxTokens;
      request.params.ignore_eos = true;
      request.params.logprobs = 2;
      all.push_back(request);
    }
    return all;
  }

  StartedEngine start(const EngineOptions& options) {
    return start_engine(model_.checkpoint(), options, {}, {}, {library_folders(), is_emulated() ? "" : tuned().path});
  }

  static std::map<std::string, Answer> run(Engine& engine, const std::vector<Request>& requests) {
    std::map<std::string, Answer> answers;
    for (const Request& request : requests) engine.submit(request);
    size_t num_finished = 0;
    while (num_finished < requests.size()) {
      for (const Output& output : engine.wait(1000)) {
        EXPECT_EQ(output.error, "");
        Answer& answer = answers[output.request_id];
        answer.tokens.insert(answer.tokens.end(), output.tokens.begin(), output.tokens.end());
        for (const TokenLogprobs& entry : output.logprobs) {
          answer.logprobs.push_back(entry.logprob);
          answer.seconds.push_back(entry.top_logprobs.at(1));
        }
        num_finished += output.finish != FinishReason::none;
      }
      if (!engine.healthy()) {
        ADD_FAILURE() << engine.failure();
        break;
      }
    }
    return answers;
  }

  /// Each request with the engine to itself.
  static std::map<std::string, Answer> run_alone(Engine& engine, const std::vector<Request>& requests) {
    std::map<std::string, Answer> answers;
    for (const Request& request : requests) answers.merge(run(engine, {request}));
    return answers;
  }

  /// Equal tokens up to the first that was no clear choice, and near logprobs.
  static void expect_near(const std::map<std::string, Answer>& expected, const std::map<std::string, Answer>& got) {
    size_t num_compared = 0;
    for (const auto& [id, want] : expected) {
      const Answer& answer = got.at(id);
      for (size_t i = 0; i < want.tokens.size(); ++i) {
        EXPECT_NEAR(answer.logprobs[i], want.logprobs[i], 0.15) << "request " << id << ", token " << i;
        ++num_compared;
        if (answer.tokens[i] == want.tokens[i]) continue;
        EXPECT_LT(want.logprobs[i] - want.seconds[i], 0.15) << "request " << id << ", token " << i << " of a clear choice";
        break;  // from here on the contexts differ
      }
    }
    EXPECT_GE(num_compared, expected.size() * kMaxTokens / 2);
  }

 private:
  /// A folder that ends with the process: products of one shape are tuned once, not at every start.
  struct Folder {
    std::string path = str(::testing::TempDir(), "pagoda-tuned-", std::random_device{}());
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static const Folder& tuned() {
    static const Folder folder;
    return folder;
  }

  RandomModel model_{shape(), 1};
};

TEST_F(WholeModel, greedy_tokens_are_the_cpus_as_long_as_the_choice_is_clear) {
  const StartedEngine on_cpu = start(options_of("cpu"));
  const std::map<std::string, Answer> expected = run(*on_cpu.engine, requests(false));
  for (const bool deterministic : {true, false}) {
    SCOPED_TRACE(deterministic ? "deterministic" : "any order of summation");
    EngineOptions options = gpu_options();
    options.deterministic = deterministic;
    const StartedEngine on_gpu = start(options);
    expect_near(expected, run(*on_gpu.engine, requests(false)));
  }
}

TEST_F(WholeModel, requests_get_the_same_bits_in_a_batch_in_chunks_and_after_preemption) {
  std::map<std::string, Answer> expected;
  {
    const StartedEngine started = start(gpu_options());
    expected = run_alone(*started.engine, requests(true));
    EXPECT_EQ(run(*started.engine, requests(true)), expected) << "in a batch";
    EXPECT_EQ(run(*started.engine, requests(true)), expected) << "in a batch, with recorded steps";
  }
  {
    EngineOptions options = gpu_options();
    options.max_num_batched_tokens = is_emulated() ? 7 : 100;
    const StartedEngine started = start(options);
    EXPECT_EQ(run(*started.engine, requests(true)), expected) << "in chunks";
  }
  {
    EngineOptions options = gpu_options();
    options.block_size = is_emulated() ? 4 : 16;
    options.max_model_len = is_emulated() ? 48 : 512;
    options.num_kv_blocks = is_emulated() ? 13 : 36;
    const StartedEngine started = start(options);
    EXPECT_EQ(run(*started.engine, requests(true)), expected) << "after preemptions";
    EXPECT_GT(started.engine->stats().num_preemptions, 0);
  }
}

TEST_F(WholeModel, the_plan_is_what_the_engine_takes) {
  EngineOptions options = gpu_options();
  options.num_kv_blocks = is_emulated() ? 40 : 2000;
  if (!is_emulated()) {  // the kernels' code is loaded, and the driver has what it keeps
    const StartedEngine warm = start(options);
    run(*warm.engine, requests(false));
  }
  const size_t before = cuda_device_info({}).available_bytes;
  const StartedEngine started = start(options);
  run(*started.engine, requests(false));
  const size_t taken = before - cuda_device_info({}).available_bytes;
  const size_t slack = is_emulated() ? 0 : size_t{16} << 20;  // pages of the driver, recorded steps
  EXPECT_GE(taken + slack, started.plan.needed());
  EXPECT_LE(taken, started.plan.needed() + slack);
}

}  // namespace
}  // namespace pagoda::device_test
