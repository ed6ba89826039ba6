// The logits that llama.cpp computes for known tokens.
//
//   llama_logits MODEL.gguf THREADS WINDOW < ids > logits
//
// Reads 32-bit token ids, a multiple of WINDOW of them. Each window is a text of its own: writes WINDOW rows of the
// vocabulary's size in f32, row i says what follows token i. Exit status 1 with a line on stderr for what cannot be used.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

namespace {

int fail(const char* what) {
  std::fprintf(stderr, "llama_logits: %s\n", what);
  return 1;
}

void silent(ggml_log_level, const char*, void*) {}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return fail("expects MODEL.gguf THREADS WINDOW");
  const int threads = std::atoi(argv[2]), window = std::atoi(argv[3]);
  if (threads < 1 || window < 1) return fail("THREADS and WINDOW must be at least 1");
  llama_log_set(silent, nullptr);
  llama_backend_init();
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (!model) return fail("the model cannot be loaded");
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = static_cast<uint32_t>(window);
  params.n_threads = params.n_threads_batch = threads;
  llama_context* context = llama_init_from_model(model, params);
  if (!context) return fail("no context of this window");
  const auto vocab = static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  llama_batch batch = llama_batch_init(window, 0, 1);
  std::vector<int32_t> ids(static_cast<size_t>(window));
  while (std::fread(ids.data(), sizeof(int32_t), ids.size(), stdin) == ids.size()) {
    llama_memory_clear(llama_get_memory(context), true);
    batch.n_tokens = window;
    for (int i = 0; i < window; ++i) {
      batch.token[i] = ids[static_cast<size_t>(i)];
      batch.pos[i] = i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    if (llama_decode(context, batch) != 0) return fail("llama_decode failed");
    for (int i = 0; i < window; ++i) std::fwrite(llama_get_logits_ith(context, i), sizeof(float), vocab, stdout);
    std::fflush(stdout);
  }
  return 0;
}
