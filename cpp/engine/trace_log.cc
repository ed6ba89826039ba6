// Two rings: of sequences and of steps.
#include "engine/trace_log.h"

#include <algorithm>

namespace pagoda {

void TraceLog::take(Trace& trace) {
  for (const Trace::Entry& entry : trace.entries()) add(entry);
  trace.entries().clear();
  for (const StepTrace& step : trace.steps()) {
    if (steps_.size() < kMaxSteps) {
      steps_.push_back(step);
    } else {
      steps_[next_step_] = step;
      next_step_ = (next_step_ + 1) % kMaxSteps;
    }
  }
  trace.steps().clear();
}

void TraceLog::add(const Trace::Entry& entry) {
  if (places_.empty()) return;
  Place& place = places_[entry.seq_id % places_.size()];
  if (entry.request) {
    place.seq_id = entry.seq_id;
    place.timeline.request_id = entry.request->id;
    place.timeline.choice = entry.choice;
    place.timeline.events.clear();
    place.timeline.num_dropped = 0;
  } else if (place.seq_id != entry.seq_id) {
    return;
  }
  Timeline& timeline = place.timeline;
  const size_t room = entry.event.kind == TraceKind::finished ? Timeline::kMaxEvents : Timeline::kMaxEvents - 1;
  if (timeline.events.size() < room) {
    timeline.events.push_back(entry.event);
  } else {
    ++timeline.num_dropped;
  }
}

std::vector<Timeline> TraceLog::timelines(std::string_view prefix) const {
  std::vector<const Place*> found;
  for (const Place& place : places_) {
    if (!place.timeline.events.empty() && place.timeline.request_id.starts_with(prefix)) found.push_back(&place);
  }
  std::ranges::sort(found, {}, &Place::seq_id);
  std::vector<Timeline> timelines;
  timelines.reserve(found.size());
  for (const Place* place : found) timelines.push_back(place->timeline);
  return timelines;
}

std::vector<StepTrace> TraceLog::steps() const {
  std::vector<StepTrace> steps = steps_;
  std::ranges::rotate(steps, steps.begin() + static_cast<std::ptrdiff_t>(next_step_));
  return steps;
}

}  // namespace pagoda
