// Products by (an emulated) cuBLASLt: right for all sizes and strides, chosen by time, invariant where that is asked for, kept
// from one start to the next, and recordable.
#include "cuda/gemm.h"

#include "cuda/gemm_probe.h"
#include "gemm_support.h"

namespace pagoda::cuda {
namespace {

TEST_F(GemmTest, products_are_right_for_every_size_stride_type_and_bias) {
  for (const DType out : {DType::bf16, DType::f32}) {
    for (const auto& [rows, cols] : {std::pair{16, 64}, {40, 24}, {8, 200}}) {
      Gemm gemm(load_cublaslt({}));
      const GemmShape shape{rows, cols, matrix_stride(cols), out, 20};
      gemm.prepare(queue(false), {{shape}}, {});
      for (const int64_t num_tokens : {1, 2, 8, 9, 20, 33}) {
        for (const bool with_bias : {false, true}) {
          Example example(num_tokens, rows, cols, out);
          std::vector<float> bias(static_cast<size_t>(rows));
          for (size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i) - 3;
          ASSERT_TRUE(gemm.takes(example.operands()));
          gemm.run(queue(false), example.operands(), with_bias ? bias.data() : nullptr, workspace_.data());
          synchronize();
          EXPECT_LT(example.error(with_bias ? bias.data() : nullptr), out == DType::f32 ? 1e-6 : 4e-3)
              << num_tokens << " tokens, weight " << rows << " x " << cols;
          for (int64_t t = 0; t < num_tokens - 1; ++t) EXPECT_NE(example.out.get(t, rows), example.out.get(t, rows));
        }
      }
    }
  }
}

TEST_F(GemmTest, a_product_of_no_tokens_is_no_work) {
  Gemm gemm(load_cublaslt({}));
  gemm.prepare(queue(false), {{small_}}, {});
  Example example(1, 16, 64, DType::bf16);
  GemmOperands operands = example.operands();
  operands.out.shape = {0, 16};
  operands.x.shape = {0, 64};
  const uint64_t before = emu::num_launches();
  gemm.run(queue(false), operands, nullptr, workspace_.data());
  synchronize();
  EXPECT_EQ(emu::num_launches(), before);
}

TEST_F(GemmTest, a_workspace_may_begin_anywhere) {
  emu::cublaslt().algorithms = {{emu::LtAlgorithm::Order::split}};
  Gemm gemm(load_cublaslt({}));
  gemm.prepare(queue(false), {{small_}}, {});
  for (const size_t address : {0, 16, 64, 192, 255}) {
    Example example(8, 16, 64, DType::bf16);
    ASSERT_TRUE(gemm.takes(example.operands()));
    gemm.run(queue(false), example.operands(), nullptr, workspace_.data() + address);
    synchronize();
    EXPECT_LT(example.error(nullptr), 4e-3) << address << " bytes further";
  }
}

TEST_F(GemmTest, a_bias_is_added_to_any_number_of_columns) {
  for (const DType type : {DType::bf16, DType::f32}) {
    for (const int64_t cols : {1, 7, 8, 9, 1030, 2051}) {
      for (const unsigned seed : kSchedules) {
        const ScheduleScope scope(seed);
        std::mt19937 random(seed);
        const int64_t stride = (cols + 7) / 8 * 8;
        HostTensor out = HostTensor::random(type, 3, stride, random);
        const HostTensor before = out;
        std::vector<float> bias(static_cast<size_t>(cols));
        for (float& value : bias) value = std::normal_distribution<float>()(random);
        add_bias(test_queue(), out.view().columns(0, cols), bias.data());
        synchronize();
        for (int64_t i = 0; i < 3; ++i) {
          for (int64_t j = cols; j < stride; ++j) ASSERT_EQ(out.get(i, j), before.get(i, j));
          for (int64_t j = 0; j < cols; ++j) {
            const float sum = before.get(i, j) + bias[static_cast<size_t>(j)];
            ASSERT_EQ(out.get(i, j), type == DType::f32 ? sum : bf16_to_float(float_to_bf16(sum)));
          }
        }
      }
    }
  }
}

TEST_F(GemmTest, what_does_not_suit_the_library_is_not_taken) {
  Gemm gemm(load_cublaslt({}));
  gemm.prepare(queue(false), {{small_, {16, 60, 64, DType::bf16, 8}, {15, 64, 64, DType::f32, 8}}}, {});
  Example example(4, 16, 64, DType::bf16);
  const GemmOperands right = example.operands();
  EXPECT_TRUE(gemm.takes(right));
  GemmOperands wrong = right;
  wrong.x = wrong.x.columns(1, 64);
  wrong.weight.cols = 63;
  EXPECT_FALSE(gemm.takes(wrong)) << "rows that begin anywhere";
  wrong = right;
  wrong.x.row_stride = 69;
  EXPECT_FALSE(gemm.takes(wrong)) << "rows that lie anywhere";
  wrong = right;
  wrong.weight.format = MatrixFormat::q8;
  EXPECT_FALSE(gemm.takes(wrong)) << "quantised";
  wrong = right;
  wrong.weight.rows = 8;
  EXPECT_FALSE(gemm.takes(wrong)) << "not prepared";
  wrong = right;
  wrong.weight.cols = 60;
  EXPECT_FALSE(gemm.takes(wrong)) << "prepared, but its dense rows are not aligned";
  EXPECT_THROW(gemm.run(queue(false), wrong, nullptr, workspace_.data()), InternalError);
}

TEST_F(GemmTest, buckets_grow_by_two_up_to_the_largest_number_of_tokens) {
  EXPECT_EQ(gemm_bucket_sizes(1), (std::vector<int64_t>{1}));
  EXPECT_EQ(gemm_bucket_sizes(8), (std::vector<int64_t>{1, 8}));
  EXPECT_EQ(gemm_bucket_sizes(100), (std::vector<int64_t>{1, 8, 16, 32, 64, 100}));
  EXPECT_EQ(gemm_bucket_sizes(8192).size(), 12u);
}

TEST_F(GemmTest, the_fastest_way_of_each_bucket_is_chosen) {
  emu::cublaslt().algorithms = {{Order::ascending, 1, 0.5}, {Order::by_num_tokens, 9, 0.1}, {Order::split, 3, 0.3}};
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, small_, false), (std::vector<int>{0, 0, 2, 1, 1}));
  int num_calls = 0;
  std::filesystem::remove_all(folder_);
  EXPECT_EQ(choice(gemm, small_, false, own_kernel(6, &num_calls)), (std::vector<int>{0, 0, -1, -1, -1}));
  EXPECT_GT(num_calls, 10);
}

TEST_F(GemmTest, deterministic_plans_reject_what_depends_on_the_number_of_tokens) {
  emu::cublaslt().algorithms = {{Order::by_num_tokens, 1},
                                {Order::by_row, 2},
                                {Order::split, 4},
                                {Order::ascending, 9, 0.1},
                                {Order::ascending, 10, 0.05}};
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, small_, true), (std::vector<int>{2, 2, 2, 2, 2})) << "split in two is one order too";
  emu::cublaslt().algorithms[2].max_tokens = 32;
  std::filesystem::remove_all(folder_);
  EXPECT_EQ(choice(gemm, small_, true), (std::vector<int>{0, 0, 0, 4, 4})) << "an order must have a way in every bucket, "
                                                                              "and need not be the same one";
}

TEST_F(GemmTest, no_order_is_founded_on_an_algorithm_that_changes_within_the_largest_bucket) {
  emu::cublaslt().algorithms = {{Order::by_num_tokens, 1}, {Order::descending, 5}};
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, {16, 64, 64, DType::bf16, 24}, true), (std::vector<int>{1, 1, 1, 1}));
}

TEST_F(GemmTest, shapes_have_plans_of_their_own) {
  emu::cublaslt().algorithms = {{Order::ascending, 1, 0.1}, {Order::descending, 2}};
  Gemm gemm(load_cublaslt({}));
  const std::vector<GemmShape> shapes = {{32, 128, 128, DType::f32, 4}, small_, {16, 64, 64, DType::f32, 1}};
  gemm.prepare(queue(true), shapes, setup());
  const auto chosen_for = [&](Example example) { return chosen(*gemm.plan(example.operands())); };
  EXPECT_EQ(chosen_for({1, 32, 128, DType::f32}), (std::vector<int>{0, 0}));
  EXPECT_EQ(chosen_for({1, 16, 64, DType::bf16}), (std::vector<int>{1, 1, 1, 1, 1}));
  EXPECT_EQ(chosen_for({1, 16, 64, DType::f32}), (std::vector<int>{0}));
}

TEST_F(GemmTest, of_several_orders_the_one_with_the_least_slowdown_is_chosen) {
  emu::cublaslt().algorithms = {{Order::ascending, 20}, {Order::descending, 3, 0.1}, {Order::descending, 1, 0.5}};
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, small_, true), (std::vector<int>{2, 1, 1, 1, 1}));
}

TEST_F(GemmTest, an_order_that_is_proposed_for_many_tokens_is_tried_for_few) {
  // the library proposes 16 algorithms at most: the last ones are not seen where the first ones exist
  emu::cublaslt().algorithms.assign(20, {Order::by_row, 1, 0, 1, 32});
  emu::cublaslt().algorithms.push_back({Order::descending, 5});
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, small_, true), (std::vector<int>{20, 20, 20, 20, 20}));
}

TEST_F(GemmTest, without_an_invariant_algorithm_our_own_kernel_is_used_for_all_numbers_of_tokens) {
  emu::cublaslt().algorithms = {{Order::by_num_tokens, 1}, {Order::by_row, 2}, {Order::ascending, 3, 0, 1, 16}};
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, small_, true, own_kernel(50)), (std::vector<int>{-1, -1, -1, -1, -1}));
  std::filesystem::remove_all(folder_);
  EXPECT_EQ(choice(gemm, small_, true), (std::vector<int>{})) << "even if there was none to be timed";
  for (const int64_t num_tokens : {1, 16, 40}) {
    Example example(num_tokens, 16, 64, DType::bf16);
    EXPECT_FALSE(gemm.takes(example.operands()));
  }
}

TEST_F(GemmTest, in_a_deterministic_plan_cublaslt_and_our_own_kernel_do_not_mix) {
  emu::cublaslt().algorithms = {{Order::ascending, 1, 1}};
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, small_, true, own_kernel(20)), (std::vector<int>{0, 0, 0, 0, 0}));
  EXPECT_EQ(choice(gemm, small_, false, own_kernel(20)), (std::vector<int>{0, 0, 0, -1, -1}));
  std::filesystem::remove_all(folder_);
  EXPECT_EQ(choice(gemm, small_, true, own_kernel(4)), (std::vector<int>{-1, -1, -1, -1, -1}));
}

TEST_F(GemmTest, bits_of_a_row_do_not_depend_on_the_number_of_tokens_in_deterministic_mode) {
  emu::cublaslt().algorithms = {
      {Order::by_num_tokens, 1}, {Order::by_row, 2}, {Order::descending, 3, 0.1}, {Order::descending, 9}};
  for (const DType out : {DType::bf16, DType::f32}) {
    Gemm gemm(load_cublaslt({}));
    const GemmShape shape{16, 64, 64, out, 40};
    EXPECT_EQ(choice(gemm, shape, true), (std::vector<int>{2, 2, 2, 2, 0})) << "the first one descends for many tokens";
    expect_rows_do_not_depend_on_the_number_of_tokens<Example>(gemm, out);
  }
}

TEST_F(GemmTest, algorithms_that_the_library_refuses_for_some_tokens_of_a_bucket_are_not_chosen) {
  emu::cublaslt().algorithms = {{Order::ascending, 1, 0, 30}, {Order::ascending, 2}};
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, small_, false), (std::vector<int>{1, 1, 1, 1, 0}));
  EXPECT_EQ(choice(gemm, small_, true), (std::vector<int>{1, 1, 1, 1, 0}));
}

TEST_F(GemmTest, plans_are_kept_for_the_next_start) {
  emu::cublaslt().algorithms = {{Order::ascending, 2}, {Order::descending, 1}};
  Gemm first(load_cublaslt({}));
  const std::vector<int> expected = choice(first, small_, true);
  EXPECT_GT(emu::cublaslt().num_proposals, 0);
  const std::string text = read_cache();
  EXPECT_NE(text.find("Emulated_GPU__1st_"), std::string::npos);
  EXPECT_NE(cache_path().find("gemm-Emulated_GPU__1st_-13000-130000.json"), std::string::npos);

  emu::cublaslt().num_proposals = 0;
  Gemm second(load_cublaslt({}));
  EXPECT_EQ(choice(second, small_, true), expected);
  EXPECT_EQ(emu::cublaslt().num_proposals, 0) << "nothing is tried again";
  EXPECT_EQ(read_cache(), text);

  EXPECT_EQ(choice(second, small_, false), expected) << "plans of both kinds stand side by side";
  emu::cublaslt().num_proposals = 0;
  choice(second, small_, true);
  choice(second, small_, false);
  EXPECT_EQ(emu::cublaslt().num_proposals, 0);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1) << "and nothing unfinished is left";
}

TEST_F(GemmTest, a_damaged_file_is_not_used_and_written_anew) {
  Gemm gemm(load_cublaslt({}));
  choice(gemm, small_, true);
  const std::string text = read_cache();
  std::vector<std::string> damaged = {
      "", "{", "[]", "{\"plans\": 3}", std::string(100, '\0'), text + " ", text.substr(0, text.size() / 2), text.substr(1)};
  for (size_t at = 5; at < text.size(); at += 37) {
    damaged.push_back(text);
    damaged.back()[at] = static_cast<char>(damaged.back()[at] ^ 1);
  }
  for (const std::string& broken : damaged) {
    write_cache(broken);
    emu::cublaslt().num_proposals = 0;
    EXPECT_EQ(choice(gemm, small_, true), (std::vector<int>{0, 0, 0, 0, 0}));
    EXPECT_GT(emu::cublaslt().num_proposals, 0) << broken;
    EXPECT_EQ(read_cache(), text);
  }
}

TEST_F(GemmTest, a_file_of_another_machine_is_not_used) {
  const auto text_of = [&](const GemmMachine& machine) {
    GemmCache cache(folder_, machine);
    cache.put({small_, true, {{40, std::nullopt}}});
    cache.save();
    std::ostringstream text;
    text << std::ifstream(cache.path()).rdbuf();
    EXPECT_NE(GemmCache(folder_, machine).find(small_, true), nullptr);
    return text.str();
  };
  const GemmMachine here{"Emulated GPU (1st)", 13000, emu::cublaslt().version};
  for (const GemmMachine& other : {GemmMachine{"Emulated GPU 2", 13000, 130000}, GemmMachine{here.device_name, 12080, 130000},
                                   GemmMachine{here.device_name, 13000, 120900}}) {
    EXPECT_EQ(GemmCache(folder_, here).find(small_, true), nullptr);
    write_cache(text_of(other));
    EXPECT_EQ(GemmCache(folder_, here).find(small_, true), nullptr);
  }
  EXPECT_EQ(GemmCache("", here).path(), "");
}

TEST_F(GemmTest, plans_that_the_library_no_longer_follows_are_made_anew) {
  emu::cublaslt().algorithms = {{Order::ascending, 2}, {Order::ascending, 1}};
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, small_, true), (std::vector<int>{1, 1, 1, 1, 1}));
  emu::cublaslt().algorithms.pop_back();
  EXPECT_EQ(choice(gemm, small_, true), (std::vector<int>{0, 0, 0, 0, 0}));
  EXPECT_EQ(choice(gemm, small_, true, own_kernel(0.1)), (std::vector<int>{0, 0, 0, 0, 0})) << "kept";
  GemmCache cache(folder_, {"Emulated GPU (1st)", 13000, emu::cublaslt().version});
  cache.put({small_, true, {{40, std::nullopt}}});
  cache.save();
  EXPECT_EQ(choice(gemm, small_, true), (std::vector<int>{0, 0, 0, 0, 0})) << "of other buckets";
}

TEST_F(GemmTest, a_cache_that_cannot_be_written_is_no_error) {
  std::ofstream(folder_) << "a file in the place of the folder";
  Gemm gemm(load_cublaslt({}));
  EXPECT_EQ(choice(gemm, small_, true), (std::vector<int>{0, 0, 0, 0, 0}));
}

TEST_F(GemmTest, a_recorded_product_is_replayed_with_new_inputs) {
  for (const bool cached : {false, true}) {
    emu::cublaslt().used.clear();  // as in a new process
    Gemm gemm(load_cublaslt({}));
    gemm.prepare(queue(true), {{small_}}, setup());
    Queue recorded = queue(true);
    check(cudaStreamCreateWithFlags(&recorded.stream, cudaStreamNonBlocking), "stream");
    Example example(5, 16, 64, DType::bf16);
    std::vector<float> bias(16, 2);
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    check(cudaStreamBeginCapture(recorded.stream, cudaStreamCaptureModeThreadLocal), "begin");
    gemm.run(recorded, example.operands(), bias.data(), workspace_.data());
    check(cudaStreamEndCapture(recorded.stream, &graph), "end");
    check(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
    for (unsigned seed = 5; seed < 8; ++seed) {
      const Example other(5, 16, 64, DType::bf16, seed);
      std::ranges::copy(other.x.bytes, example.x.bytes.begin());
      check(cudaGraphLaunch(executable, recorded.stream), "launch");
      check(cudaStreamSynchronize(recorded.stream), "wait");
      EXPECT_LT(example.error(bias.data()), 4e-3) << (cached ? "cached" : "tuned");
    }
    check(cudaGraphExecDestroy(executable), "destroy");
    check(cudaGraphDestroy(graph), "destroy");
    check(cudaStreamDestroy(recorded.stream), "destroy");
  }
}

TEST_F(GemmTest, preparing_gives_back_all_memory) {
  const size_t before = emu::allocated_bytes();
  Gemm gemm(load_cublaslt({}));
  gemm.prepare(queue(true), {{small_, {32, 128, 128, DType::f32, 8}}}, setup(own_kernel(2)));
  EXPECT_EQ(emu::allocated_bytes(), before);
}

TEST_F(GemmTest, an_absent_library_is_told_in_one_sentence) {
  emu::cublaslt().absent = true;
  try {
    load_cublaslt({});
    FAIL() << "found";
  } catch (const DeviceError& error) {
    EXPECT_STREQ(
        error.what(),
        "cuBLASLt (libcublasLt.so.13 or libcublasLt.so.12), which multiplies matrices on the GPU, was not found; install "
        "it with `pip install nvidia-cublas` or the CUDA toolkit");
  }
}

TEST_F(GemmTest, probes_cancel_and_pad_with_zeros) {
  for (const int64_t cols : {1, 2, 7, 64, 100}) {
    HostTensor x(DType::bf16, 5, cols), weight(DType::bf16, 3, cols, matrix_stride(cols) + 64);
    fill_probe(test_queue(), x.view(), 1, false);
    fill_probe(test_queue(), weight.view(), 2, true);
    synchronize();
    for (int64_t i = 0; i < 5; ++i) {
      for (int64_t j = 0; j < 3; ++j) {
        double sum = 0;
        for (int64_t c = 0; c < cols - cols % 2; ++c) sum += static_cast<double>(x.get(i, c)) * weight.get(j, c);
        EXPECT_NEAR(sum, 0, 1e-12);
      }
      for (int64_t c = 0; c < cols; ++c) EXPECT_LE(std::abs(x.get(i, c)), 1);
    }
    for (int64_t c = cols; c < weight.row_stride; ++c) EXPECT_EQ(weight.get(2, c), 0);
    EXPECT_NE(x.get(0, 0), x.get(1, 0));
  }
}

TEST_F(GemmTest, hashes_tell_rows_apart_by_their_bits_alone) {
  for (const DType type : {DType::bf16, DType::f32}) {
    for (const unsigned seed : kSchedules) {
      const ScheduleScope scope(seed);
      std::mt19937 random(3);
      HostTensor rows = HostTensor::random(type, 9, 70, random, 1, 72);
      for (int64_t c = 0; c < 70; ++c) rows.set(7, c, rows.get(2, c));
      for (int64_t c = 0; c < 70; ++c) rows.set(8, c, rows.get(2, c == 0 ? 1 : c == 1 ? 0 : c));
      std::vector<uint64_t> hashes(9);
      hash_rows(test_queue(), hashes.data(), rows.view());
      synchronize();
      for (size_t i = 0; i < 9; ++i) {
        for (size_t j = 0; j < i; ++j) EXPECT_EQ(hashes[i] == hashes[j], i == 7 && j == 2);
      }
    }
  }
}

}  // namespace
}  // namespace pagoda::cuda
