// Times whole steps of the engine on a model of Llama-3.1-8B's shape with random weights: decode steps at several batch sizes,
// and prefill. Writes JSON like kernels_bench.cc, with the share of what the device's measured ceilings allow. Model and
// weights are made in memory; under the emulation, with --smoke, the model is tiny and nothing is measured.
//
//   gpu_engine_bench [--out=file] [--commit=hash] [--libraries=folder:folder] [--cache=folder] [--only=auto|deterministic]
//   [--smoke]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <random>

#include "engine/startup.h"
#include "families.h"
#include "random_model.h"

namespace pagoda::bench {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

device_test::ModelShape model_shape(bool smoke) {
  if (smoke) return {320, 64, 160, 2, 4, 2, 16, 256};
  return {128256, 4096, 14336, 32, 32, 8, 128, 131072};
}

struct DecodeCase {
  int batch, context, num_tokens;
};

class EngineBench {
 public:
  EngineBench(const Settings& settings, Report& report, const device_test::RandomModel& model, bool deterministic)
      : smoke_(settings.smoke),
        report_(report),
        mode_(deterministic ? "deterministic" : "auto"),
        num_weights_(model.num_weights()) {
    EngineOptions options;
    options.device = cuda_build() == CudaBuild::emulated ? "cuda-emu" : "cuda";
    options.deterministic = deterministic;
    options.prefix_cache = false;
    options.max_model_len = smoke_ ? 128 : 16384;
    options.max_num_batched_tokens = smoke_ ? 64 : 8192;
    options.num_kv_blocks = smoke_ ? 64 : 20000;
    const size_t before = cuda_device_info({}).available_bytes;
    const auto begin = Clock::now();
    started_ = start_engine(model.checkpoint(), options, {}, {}, {settings.library_folders, settings.cache_folder});
    const double seconds = seconds_since(begin);
    const size_t taken = before - cuda_device_info({}).available_bytes;
    report_.add_plain("start",
                      {field("mode", mode_), field("planned_bytes", static_cast<int64_t>(started_.plan.needed())),
                       field("taken_bytes", static_cast<int64_t>(taken))},
                      {field("seconds", seconds)});
  }

  /// Time of one step while `batch` sequences decode, from `context` tokens on.
  void decode(const DecodeCase& c) {
    std::map<std::string, int> made;
    for (int i = 0; i < c.batch; ++i) submit(c.context, c.num_tokens);
    // Sequences start one after another: timed are the steps after the last has started and before the first ends.
    const auto counts = [&] {
      std::pair<int, int> least_most{std::ssize(made) < c.batch ? 0 : c.num_tokens, 0};
      for (const auto& [id, count] : made) least_most = {std::min(least_most.first, count), std::max(least_most.second, count)};
      return least_most;
    };
    collect(made, [&] { return counts().first >= c.num_tokens / 6; });
    const auto begin = Clock::now();
    const auto [least, most] = counts();
    collect(made, [&] { return counts().second >= c.num_tokens - 1; });
    const int num_steps = counts().second - most;
    if (num_steps < 1) throw DeviceError(str("too few tokens to time a batch of ", c.batch));
    const double seconds = seconds_since(begin) / num_steps;
    collect(made, [&] { return num_running_ == 0; });
    const double mean_context = c.context + (least + most + num_steps) / 2.0;
    report_.add("decode_step", {field("mode", mode_), field("batch", c.batch), field("context", c.context)},
                work(c.batch, mean_context), {seconds * 1e6, 0});
  }

  /// Time from a prompt to its first token.
  void prefill(int num_tokens) {
    for (int repeat = 0; repeat < (smoke_ ? 1 : 3); ++repeat) {
      std::map<std::string, int> made;
      const auto begin = Clock::now();
      submit(num_tokens, 1);
      collect(made, [&] { return num_running_ == 0; });
      const double seconds = seconds_since(begin);
      report_.add("prefill", {field("mode", mode_), field("prompt", num_tokens), field("repeat", repeat)},
                  {0, prefill_flops(num_tokens)}, {seconds * 1e6, 0});
    }
  }

 private:
  void submit(int num_prompt, int num_tokens) {
    Request request;
    request.id = std::to_string(next_id_++);
    for (int i = 0; i < num_prompt; ++i)
      request.prompt.push_back(static_cast<int32_t>(random_() % static_cast<unsigned>(started_.config.vocab_size)));
    request.params.temperature = 0;
    request.params.seed = 1;
    request.params.max_tokens = num_tokens;
    request.params.ignore_eos = true;
    started_.engine->submit(std::move(request));
    ++num_running_;
  }

  void collect(std::map<std::string, int>& made, const auto& until) {
    while (!until()) {
      for (const Output& output : started_.engine->wait(1000)) {
        if (!output.error.empty()) throw DeviceError(output.error);
        made[output.request_id] += static_cast<int>(output.tokens.size());
        num_running_ -= output.finish != FinishReason::none;
      }
      if (!started_.engine->healthy()) throw DeviceError(started_.engine->failure());
    }
  }

  /// Weights but the embedding's are read once, and each sequence's keys and values.
  Work work(int batch, double context) const {
    const ModelConfig& config = started_.config;
    const double weights = static_cast<double>(num_weights_ - config.vocab_size * config.hidden_size);
    const double kv = 2.0 * config.kv_heads * config.head_dim * config.num_layers;
    const double scores = 4.0 * config.num_heads * config.head_dim * config.num_layers;
    return {2 * weights + 2 * kv * context * batch, 2 * weights * batch + scores * context * batch};
  }

  /// Of all layers for all tokens; the head sees the last one.
  double prefill_flops(double tokens) const {
    const ModelConfig& config = started_.config;
    const double layers = static_cast<double>(num_weights_ - 2 * config.vocab_size * config.hidden_size);
    return 2 * layers * tokens + 2.0 * config.num_heads * config.head_dim * config.num_layers * tokens * tokens;
  }

  bool smoke_;
  Report& report_;
  const char* mode_;
  int64_t num_weights_;
  StartedEngine started_;
  std::mt19937 random_{1};
  int64_t next_id_ = 0;
  int64_t num_running_ = 0;
};

void bench_mode(const Settings& settings, Report& report, const device_test::RandomModel& model, bool deterministic) {
  EngineBench engine(settings, report, model, deterministic);
  std::vector<DecodeCase> cases = {{1, 1024, 128}, {8, 1024, 128}, {64, 1024, 96}, {256, 512, 96}};
  if (settings.smoke) cases = {{1, 9, 8}, {3, 12, 8}};
  for (const DecodeCase& c : cases) engine.decode(c);
  for (const int prompt : settings.smoke ? std::vector{40} : std::vector{2048, 8192}) engine.prefill(prompt);
}

void run(const Settings& settings) {
  auto device = std::make_unique<BenchDevice>(settings.smoke);
  const cuda::Gpu& gpu = device->gpu();
  Report report({field("benchmark", "engine"), field("device", gpu.info.name), field("isa", gpu.info.isa),
                 field("driver", gpu.driver_version), field("commit", settings.commit),
                 field("model", "Llama-3.1-8B's shape, random bf16 weights")},
                !settings.smoke);
  measure_ceilings(*device, report, settings);
  device.reset();  // its memory is the engine's
  const device_test::RandomModel model(model_shape(settings.smoke), 1);
  for (const bool deterministic : {false, true}) {
    if (settings.only.empty() || (settings.only == "deterministic") == deterministic)
      bench_mode(settings, report, model, deterministic);
    report.write(settings.out);
  }
}

}  // namespace
}  // namespace pagoda::bench

int main(int argc, char** argv) {
  try {
    const pagoda::bench::Settings settings = pagoda::bench::read_settings(argc, argv);
    if (const std::string reason = pagoda::cuda_unavailable(); !reason.empty()) {
      throw pagoda::DeviceError("nothing can be measured: " + reason);
    }
    pagoda::bench::run(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
