// What a request hears while its prompt is computed.
#include <gtest/gtest.h>

#include "sim_engine.h"

namespace pagoda::sim {
namespace {

TEST(Scheduler, tells_how_far_a_prompt_of_several_steps_is_once_for_all_choices) {
  for (const size_t steps_in_flight : {1, 2}) {
    SimEngine engine({.max_num_batched_tokens = 10, .steps_in_flight = steps_in_flight});
    Request request = make_request("long", make_prompt(34, 1), 3);
    request.params.n = 2;
    engine.add(request);
    engine.add(make_request("short", make_prompt(2, 2), 3));
    engine.run();
    EXPECT_EQ(engine.of("long").progress, (std::vector<int64_t>{10, 20, 30}));
    EXPECT_TRUE(engine.of("long", 1).progress.empty());
    EXPECT_TRUE(engine.of("short").progress.empty());
  }
}

}  // namespace
}  // namespace pagoda::sim
