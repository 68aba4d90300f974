// A page of figures from a stranger's server: what is read of it lies within the page.
#include "base/check.h"
#include "http/metrics_reader.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {

void check_input(std::string_view input) {
  for (const http::MetricSample& sample : http::read_metrics(input)) {
    CHECK(sample.name.data() >= input.data() &&
              sample.name.data() + sample.name.size() <= input.data() + input.size(),
          "a name from elsewhere");
    CHECK(sample.value == sample.value, "a sample that is no number");
    const auto engine = sample.label("engine");
    CHECK(!engine || engine->size() <= sample.labels.size(), "a label longer than all labels");
  }
}

}  // namespace fourfold::fuzz
