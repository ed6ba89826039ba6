// A fixed amount of the engine's work, for counting its instructions: a prompt, and tokens one by one behind it, on a small
// model with random weights, one thread, AVX2 kernels. bench/instructions.py runs it under callgrind, which counts inside
// Runner::launch.
//
//   step_instructions FORMAT PROMPT TOKENS
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "engine/startup.h"
#include "random_model.h"

namespace {

using namespace pagoda;

void run(const std::string& format, int num_prompt, int num_tokens) {
  const device_test::RandomModel model({4096, 256, 768, 2, 4, 2, 64, 512}, 1);
  Checkpoint checkpoint = model.checkpoint();
  checkpoint.weight_format = parse_weight_format(format);
  EngineOptions options;
  options.isa = "avx2";
  options.num_threads = 1;
  options.num_kv_blocks = 32;
  options.max_model_len = 512;
  const StartedEngine started = start_engine(std::move(checkpoint), options, {}, {});
  Request request;
  request.id = "counted";
  for (int i = 0; i < num_prompt; ++i) request.prompt.push_back(i * 37 % 4096);
  request.params.temperature = 0;
  request.params.seed = 1;
  request.params.max_tokens = num_tokens;
  request.params.ignore_eos = true;
  started.engine->submit(std::move(request));
  for (bool ended = false; !ended;) {
    for (const Output& output : started.engine->wait(1000)) {
      if (!output.error.empty()) throw DeviceError(output.error);
      ended |= output.finish != FinishReason::none;
    }
    if (!started.engine->healthy()) throw DeviceError(started.engine->failure());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int num_prompt = argc == 4 ? std::atoi(argv[2]) : 0, num_tokens = argc == 4 ? std::atoi(argv[3]) : 0;
  if (num_prompt < 1 || num_tokens < 1 || num_prompt + num_tokens > 512) {
    std::fprintf(stderr, "step_instructions: expects FORMAT PROMPT TOKENS, at least one of each and 512 together\n");
    return 2;
  }
  try {
    run(argv[1], num_prompt, num_tokens);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "step_instructions: %s\n", error.what());
    return 1;
  }
  return 0;
}
