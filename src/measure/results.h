#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace fourfold::measure {

/// What was found in one repeat, and the ceiling that was measured beside it.
struct Sample {
  double value = 0;
  std::optional<double> ceiling;
};

enum class Better { kHigher, kLower };

/// One measured quantity.
struct Figure {
  std::string name;  ///< unique in its results, "decode_tok_s c8"
  std::string unit;
  Better better = Better::kHigher;
  std::string limit;  ///< what the ceiling is made of, "read bandwidth"; empty where there is none
  std::vector<Sample> samples;  ///< one for each repeat, at least one

  double value() const;
  std::optional<double> ceiling() const;
  /// How near the ceiling is, mean over the samples: 1 is there. Where lower is better the ceiling
  /// is the least that is possible, and the ratio is the ceiling over the value.
  std::optional<double> ratio() const;
  /// Half the 95 % interval of the mean (Student's t); nothing for one repeat.
  std::optional<double> ci95() const;
};

/// Appends `sample` to the figure of this name, which is made like `figure` where there is none.
void add_sample(std::vector<Figure>& figures, const Figure& figure, const Sample& sample);

/// One run of `fourfold bench`.
struct Results {
  std::string kind;  ///< "offline", "ops" or "comm"
  std::string version;
  std::string commit;
  std::string command;
  std::string date;
  std::string cpu;
  std::string isa;
  int64_t cores = 0;   ///< that the program may use
  std::string model;   ///< empty for "comm"
  std::string scheme;  ///< and what it ran on, "tp2"
  std::string numerics;
  std::vector<Figure> figures;

  const Figure* find(const std::string& name) const;
};

/// docs/bench-json.md.
nlohmann::ordered_json to_json(const Results& results);
base::Result<Results> results_from_json(const nlohmann::json& json, const std::string& name);
/// Errors name the file and what is wrong with it.
base::Result<Results> read_results(const std::string& path);

/// Four significant digits, without an exponent for large values.
std::string display(double value);

/// The table for a terminal.
std::string to_text(const Results& results);

}  // namespace fourfold::measure
