#include "text/stop_strings.h"

#include <algorithm>

namespace fourfold::text {

base::Result<StopChecker> StopChecker::create(std::vector<std::string> stops, bool include_stop) {
  StopChecker checker;
  checker.include_stop_ = include_stop;
  for (std::string& text : stops) {
    if (text.empty()) return base::fail("a stop string is empty; leave it out");
    std::vector<size_t> fallback(text.size() + 1, 0);
    for (size_t i = 1, border = 0; i < text.size(); ++i) {
      while (border > 0 && text[i] != text[border]) border = fallback[border];
      if (text[i] == text[border]) ++border;
      fallback[i + 1] = border;
    }
    checker.stops_.push_back({std::move(text), std::move(fallback)});
  }
  return checker;
}

void StopChecker::advance(Stop* stop, char byte) {
  while (stop->matched > 0 && stop->text[stop->matched] != byte) {
    stop->matched = stop->fallback[stop->matched];
  }
  if (stop->text[stop->matched] == byte) ++stop->matched;
}

StopChecker::Output StopChecker::push(std::string_view text) {
  Output output;
  if (stopped_) return output;
  const size_t old_size = held_.size();
  held_ += text;
  for (size_t i = old_size; i < held_.size(); ++i) {
    for (size_t s = 0; s < stops_.size(); ++s) {
      advance(&stops_[s], held_[i]);
      if (stops_[s].matched < stops_[s].text.size()) continue;
      if (!output.stop || stops_[s].text.size() > stops_[*output.stop].text.size()) output.stop = s;
    }
    if (output.stop) {
      held_.resize(i + 1 - (include_stop_ ? 0 : stops_[*output.stop].text.size()));
      output.text = std::move(held_);
      held_.clear();
      stopped_ = true;
      return output;
    }
  }
  size_t keep = 0;
  for (const Stop& stop : stops_) keep = std::max(keep, stop.matched);
  output.text = held_.substr(0, held_.size() - keep);
  held_.erase(0, output.text.size());
  return output;
}

std::string StopChecker::flush() {
  std::string out = std::move(held_);
  held_.clear();
  stopped_ = true;
  return out;
}

}  // namespace fourfold::text
