// The engine as Python sees it: submit, abort, wait (without the GIL), stats, the memory plan.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <optional>
#include <type_traits>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/field_binding.h"
#include "engine/startup.h"

namespace pagoda::bindings {
namespace {

/// Throws InvalidArgument for a word that is none.
Pooling pooling_of(const std::string& name) {
  if (name == "none") return Pooling::none;
  if (name == "mean") return Pooling::mean;
  require(name == "last", "pooling must be none, mean or last, got \"", name, "\"");
  return Pooling::last;
}

const char* finish_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::none:
      return nullptr;
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::abort:
      return "abort";
    case FinishReason::error:
      return "error";
  }
  return nullptr;
}

py::dict plan_dict(const MemoryPlan& plan) {
  py::dict values;
  values["total_bytes"] = plan.total;
  values["available_bytes"] = plan.available;
  values["budget_bytes"] = plan.budget;
  values["weights_bytes"] = plan.weights;
  values["workspace_bytes"] = plan.workspace + plan.indices + plan.scratch;
  values["kv_bytes_per_block"] = plan.kv_block;
  values["kv_cache_bytes"] = plan.kv_cache();
  values["num_blocks"] = plan.num_blocks;
  values["swap_space_bytes"] = plan.swap_space();
  values["num_swap_blocks"] = plan.num_swap_blocks;
  values["block_size"] = plan.block_size;
  values["max_model_len"] = plan.max_model_len;
  values["max_concurrency"] = plan.max_concurrency;
  return values;
}

py::dict info_dict(const StartedEngine& started) {
  py::dict values;
  values["architecture"] = started.config.architecture;
  values["vocab_size"] = started.config.vocab_size;
  values["num_layers"] = started.config.num_layers;
  values["hidden_size"] = started.config.hidden_size;
  values["eos_tokens"] = started.config.eos_tokens;
  values["device"] = started.device.name;
  values["isa"] = started.device.isa;
  values["num_threads"] = started.device.num_threads;
  return values;
}

const char* stat_kind_name(StatKind kind) {
  switch (kind) {
    case StatKind::counter:
      return "counter";
    case StatKind::gauge:
      return "gauge";
    case StatKind::histogram:
      return "histogram";
  }
  return nullptr;
}

/// {"name", "kind", "doc"} of every row of Stats; kind is "counter", "gauge" or "histogram", which also has its "bounds".
py::list stats_rows() {
  py::list rows;
  for_each_field<Stats>([&](const auto& row) {
    py::dict entry;
    entry["name"] = row.name;
    entry["kind"] = stat_kind_name(row.kind);
    using Value = std::decay_t<decltype(Stats{}.*row.member)>;
    if constexpr (is_histogram<Value>) entry["bounds"] = std::vector<double>(Value::kBounds.begin(), Value::kBounds.end());
    entry["doc"] = row.doc;
    rows.append(entry);
  });
  return rows;
}

/// The plain numbers, or the histograms as (counts by bucket, sum), by name.
py::dict stats_dict(const Stats& stats, bool histograms) {
  py::dict values;
  for_each_field<Stats>([&](const auto& row) {
    const auto& value = stats.*row.member;
    if constexpr (is_histogram<std::decay_t<decltype(value)>>) {
      if (histograms) values[row.name] = py::make_tuple(value.counts, value.sum);
    } else {
      if (!histograms) values[row.name] = to_python(value);
    }
  });
  return values;
}

/// Seconds since 1970 of a moment of the steady clock.
class WallClock {
 public:
  double at(TimePoint time) const { return wall_ - std::chrono::duration<double>(steady_ - time).count(); }

 private:
  TimePoint steady_ = std::chrono::steady_clock::now();
  double wall_ = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
};

py::dict event_dict(const TraceEvent& event, const WallClock& clock) {
  py::dict values;
  values["event"] = trace_kind_name(event.kind);
  values["time"] = clock.at(event.time);
  if (event.kind == TraceKind::chunk) values["begin"] = event.begin;
  values["end"] = event.end;
  if (event.kind == TraceKind::finished) values["reason"] = finish_name(event.finish);
  return values;
}

py::list timeline_list(const std::vector<Timeline>& timelines) {
  const WallClock clock;
  py::list list;
  for (const Timeline& timeline : timelines) {
    py::list events;
    for (const TraceEvent& event : timeline.events) events.append(event_dict(event, clock));
    py::dict entry;
    entry["request_id"] = timeline.request_id;
    entry["choice"] = timeline.choice;
    entry["events"] = events;
    entry["num_dropped"] = timeline.num_dropped;
    list.append(entry);
  }
  return list;
}

py::list step_list(const std::vector<StepTrace>& steps) {
  const WallClock clock;
  py::list list;
  for (const StepTrace& step : steps) {
    list.append(py::make_tuple(clock.at(step.begin), clock.at(step.end), step.num_seqs, step.num_tokens));
  }
  return list;
}

/// Calls `progress` for the last matrix, and before that as often as a person can see: other threads may hold the GIL for long.
LoadProgress rare_reports(const py::object& progress) {
  static constexpr auto kPause = std::chrono::milliseconds(50);
  return [&progress, next = std::chrono::steady_clock::time_point{}](int64_t done, int64_t total) mutable {
    if (done < total && std::chrono::steady_clock::now() < next) return;
    const py::gil_scoped_acquire gil;
    progress(done, total);
    next = std::chrono::steady_clock::now() + kPause;
  };
}

/// Keeps the engine's life on the Python side: stopping may wait for a step, so it happens without the GIL.
class PyEngine {
 public:
  PyEngine(const std::string& path, const Given<EngineOptions>& options, const py::object& eos_tokens,
           const py::object& progress, std::vector<std::string> library_folders, std::string cache_folder) {
    const StartFolders folders{std::move(library_folders), std::move(cache_folder)};
    const EosTokens end = eos_tokens.is_none() ? EosTokens{} : [&eos_tokens] {
      const py::gil_scoped_acquire gil;
      return eos_tokens().cast<std::vector<int32_t>>();
    };
    const LoadProgress report = progress.is_none() ? LoadProgress{} : rare_reports(progress);
    const py::gil_scoped_release no_gil;
    started_ = start_engine(path, options, end, report, folders);
  }

  ~PyEngine() {
    const py::gil_scoped_release no_gil;
    started_.engine.reset();
  }

  /// Throws InvalidArgument for a prompt that is no list of integers, and what Engine::submit throws.
  void submit(std::string id, const py::object& prompt, const Given<SamplingParams>& params,
              std::vector<std::vector<int32_t>> bad_words, std::string tenant, const std::string& pooling) {
    std::vector<int64_t> given;
    from_python("prompt", prompt, given);
    engine().submit(
        {std::move(id), token_ids(given), params, std::move(bad_words), std::move(tenant), pooling_of(pooling), {}, nullptr});
  }

  Engine& engine() { return *started_.engine; }
  const StartedEngine& started() const { return started_; }

 private:
  /// The prompt in the engine's width; what is not a token id in that width is refused here, what is none of this model's
  /// later.
  std::vector<int32_t> token_ids(const std::vector<int64_t>& given) const {
    std::vector<int32_t> tokens;
    tokens.reserve(given.size());
    for (const int64_t token : given) {
      require(std::in_range<int32_t>(token), "prompt must hold token ids in [0, ", started_.config.vocab_size, "), got ", token,
              " at position ", tokens.size());
      tokens.push_back(static_cast<int32_t>(token));
    }
    return tokens;
  }

  StartedEngine started_;
};

void bind_outputs(py::module_& module) {
  py::class_<TokenLogprobs>(module, "TokenLogprobs", "Log probabilities at one position.")
      .def_readonly("logprob", &TokenLogprobs::logprob)
      .def_readonly("rank", &TokenLogprobs::rank)
      .def_readonly("top_tokens", &TokenLogprobs::top_tokens)
      .def_readonly("top_logprobs", &TokenLogprobs::top_logprobs);
  py::class_<Output>(module, "Output", "What one step produced for one choice of a request.")
      .def_readonly("request_id", &Output::request_id)
      .def_readonly("choice", &Output::choice)
      .def_readonly("tokens", &Output::tokens)
      .def_readonly("logprobs", &Output::logprobs)
      .def_readonly("prompt_logprobs", &Output::prompt_logprobs)
      .def_readonly("stop_token", &Output::stop_token)
      .def_readonly("num_cached_tokens", &Output::num_cached_tokens)
      .def_readonly("num_prompt_computed", &Output::num_prompt_computed)
      .def_readonly("embedding", &Output::embedding)
      .def_readonly("error", &Output::error)
      .def_property_readonly("finish", [](const Output& output) { return finish_name(output.finish); });
}

void bind_masks(py::module_& module) {
  py::class_<MaskJob>(module, "MaskJob", "A token of a guided sequence, whose mask is wanted.")
      .def_property_readonly("request_id", &MaskJob::request_id)
      .def_property_readonly("choice", &MaskJob::choice)
      .def_property_readonly(
          "token", [](const MaskJob& job) { return job.token() < 0 ? std::nullopt : std::optional<int32_t>(job.token()); },
          "The sequence's newest token; None before the first.")
      .def_property_readonly(
          "closed", [](const MaskJob& job) { return job.token() == TokenMask::kClosed; },
          "The sequence has ended; there is nothing to answer.")
      .def_property_readonly(
          "address", [](const MaskJob& job) { return reinterpret_cast<uintptr_t>(job.words().data()); },
          "Where the mask is to be written, as long as this object lives: bit t of 32-bit word t / 32 allows token t.")
      .def_property_readonly("size_bytes", [](const MaskJob& job) { return job.words().size_bytes(); })
      .def(
          "finish", [](const MaskJob& job, bool ended, std::string error) { job.finish(ended, std::move(error)); },
          py::arg("ended") = false, py::arg("error") = "",
          "Answers: the mask is written, or the output is complete, or failed.");
}

void bind_preemptions(py::module_& module) {
  using Notice = PreemptionNotice;
  py::class_<Notice>(module, "Preemption", "A sequence lost its KV blocks.")
      .def_readonly("request_id", &Notice::request_id)
      .def_readonly("choice", &Notice::choice)
      .def_readonly("swapped", &Notice::swapped)
      .def_readonly("swap_was_full", &Notice::swap_was_full)
      .def_readonly("num_tokens", &Notice::num_tokens)
      .def_readonly("num_blocks", &Notice::num_blocks)
      .def_readonly("free_blocks_before", &Notice::free_blocks_before)
      .def_readonly("free_blocks_after", &Notice::free_blocks_after)
      .def_readonly("num_running", &Notice::num_running)
      .def_readonly("total", &Notice::total);
}

void bind_plan(py::module_& module) {
  module.def(
      "plan_memory",
      [](const std::string& path, const Given<EngineOptions>& options) { return plan_dict(plan_engine(path, options)); },
      py::arg("path"), py::arg("options"), "The memory an engine would take, from headers alone.");
}

}  // namespace

void bind_engine(py::module_& module) {
  bind_outputs(module);
  bind_preemptions(module);
  bind_masks(module);
  bind_plan(module);
  module.attr("STATS_FIELDS") = stats_rows();
  py::class_<PyEngine>(module, "Engine", "A model loaded and running on its own thread.")
      .def(py::init<const std::string&, const Given<EngineOptions>&, const py::object&, const py::object&,
                    std::vector<std::string>, std::string>(),
           py::arg("path"), py::arg("options"), py::arg("eos_tokens") = py::none(), py::arg("progress") = py::none(),
           py::arg("library_folders") = std::vector<std::string>{}, py::arg("cache_folder") = "",
           "Both callables may be None: `eos_tokens()` gives the tokenizer's end-of-sequence tokens, when the weights are "
           "loaded; "
           "`progress(done, total)` counts matrices.")
      .def("submit", &PyEngine::submit, py::arg("request_id"), py::arg("prompt"), py::arg("params"),
           py::arg("bad_words") = std::vector<std::vector<int32_t>>{}, py::arg("tenant") = "", py::arg("pooling") = "none",
           "Queues a request. params.seed must be set. `pooling` mean or last: for the prompt's embedding.")
      .def(
          "hold", [](PyEngine& self) { self.engine().hold(); },
          "Until release() nothing submitted starts, so that several requests begin with the same step.")
      .def("release", [](PyEngine& self) { self.engine().release(); })
      .def(
          "abort",
          [](PyEngine& self, const std::string& id, int32_t choice, bool stopped) {
            self.engine().abort(id, choice, stopped ? FinishReason::stop : FinishReason::abort);
          },
          py::arg("request_id"), py::arg("choice") = -1, py::arg("stopped") = false,
          "Ends one choice of a request, or all (-1); `stopped`: because a stop string was found.")
      .def(
          "wait", [](PyEngine& self, int timeout_ms) { return self.engine().wait(timeout_ms); }, py::arg("timeout_ms"),
          py::call_guard<py::gil_scoped_release>(), "Outputs since the last call, after waiting at most this long for one.")
      .def(
          "take_mask_jobs",
          [](PyEngine& self, size_t most, int timeout_ms, int min_age_ms) {
            return self.engine().masks().take(most, timeout_ms, min_age_ms);
          },
          py::arg("most"), py::arg("timeout_ms"), py::arg("min_age_ms") = 0, py::call_guard<py::gil_scoped_release>(),
          "Tokens whose masks are wanted, after waiting at most this long for one of that age. None once the engine has ended.")
      .def("stats", [](PyEngine& self) { return stats_dict(self.engine().stats(), false); })
      .def("histograms", [](PyEngine& self) { return stats_dict(self.engine().stats(), true); })
      .def(
          "timelines", [](PyEngine& self, const std::string& prefix) { return timeline_list(self.engine().timelines(prefix)); },
          py::arg("prefix") = "", "Events of the latest requests whose id begins with `prefix`.")
      .def(
          "steps", [](PyEngine& self) { return step_list(self.engine().steps()); },
          "The latest steps: (begin, end, sequences, tokens), in seconds since 1970.")
      .def("stalled_seconds", [](PyEngine& self) { return self.engine().stalled_seconds(); })
      .def(
          "take_preemptions", [](PyEngine& self) { return self.engine().take_preemptions(); },
          "Preemptions since the last call, the latest ones of many.")
      .def(
          "reset_prefix_cache", [](PyEngine& self) { self.engine().reset_prefix_cache(); },
          "Forgets all cached prefixes before the next step.")
      .def("healthy", [](PyEngine& self) { return self.engine().healthy(); })
      .def("failure", [](PyEngine& self) { return self.engine().failure(); })
      .def(
          "stop", [](PyEngine& self) { self.engine().stop(); }, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("plan", [](const PyEngine& self) { return plan_dict(self.started().plan); })
      .def_property_readonly("info", [](const PyEngine& self) { return info_dict(self.started()); });
}

}  // namespace pagoda::bindings
