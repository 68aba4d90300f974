#include "cli/settings_file.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

namespace fourfold::cli {
namespace {

constexpr size_t kMostBytes = size_t{1} << 20;
constexpr size_t kMostSettings = 1024;  // each is compared with all before it

/// Takes the parser's events as they come: no tree is built, so what is not allowed is refused at
/// its first byte. Throws YAML::ParserException, which parse_settings turns into a Result.
class Reader final : public YAML::EventHandler {
 public:
  std::vector<FileSetting> take() { return std::move(settings_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) refuse(mark, "one document was expected, a second one begins here");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    if (place_ == Place::kStart) return;  // an empty file
    if (place_ == Place::kKey) refuse(mark, "a key is empty");
    YAML::Mark key;  // where a value is missing, `mark` is already on the next line
    key.line = settings_.back().line - 1;
    refuse(key, fmt::format("{} has no value; leave the line out for the default",
                            settings_.back().key));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    refuse(mark, "aliases (*name) are not supported: write the value out");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check_plain(mark, tag, anchor);
    switch (place_) {
      case Place::kStart:
        refuse(mark, "expected lines such as \"input-len: 128\"");
      case Place::kKey:
        add_key(mark, value);
        place_ = Place::kValue;
        return;
      case Place::kValue:
        add_value(mark, value);
        place_ = Place::kKey;
        return;
      case Place::kList:
        add_value(mark, value);
        return;
    }
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    check_plain(mark, tag, anchor);
    if (place_ != Place::kValue) refuse(mark, "a list stands where none can be");
    place_ = Place::kList;
    list_ = mark;
  }
  void OnSequenceEnd() override {
    if (settings_.back().values.empty()) {
      refuse(list_, fmt::format("{} is an empty list", settings_.back().key));
    }
    place_ = Place::kKey;
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    check_plain(mark, tag, anchor);
    if (place_ != Place::kStart) {
      refuse(mark, "nested keys are not supported: each line is one flag and its value");
    }
    place_ = Place::kKey;
  }
  void OnMapEnd() override {}

 private:
  /// What the next scalar is.
  enum class Place { kStart, kKey, kValue, kList };

  [[noreturn]] static void refuse(const YAML::Mark& mark, const std::string& message) {
    throw YAML::ParserException(mark, message);
  }

  static void check_plain(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (anchor != 0) refuse(mark, "anchors (&name) are not supported");
    // "?" is a plain value's tag and "!" a quoted one's.
    if (!tag.empty() && tag != "?" && tag != "!") refuse(mark, "tags (!name) are not supported");
  }

  void add_key(const YAML::Mark& mark, const std::string& key) {
    const auto same = std::find_if(settings_.begin(), settings_.end(),
                                   [&](const FileSetting& s) { return s.key == key; });
    if (same != settings_.end()) {
      refuse(mark, fmt::format("{} is set a second time; line {} was the first", key, same->line));
    }
    if (settings_.size() == kMostSettings) {
      refuse(mark, fmt::format("more than {} keys", kMostSettings));
    }
    settings_.push_back({.key = key, .values = {}, .line = mark.line + 1});
  }

  void add_value(const YAML::Mark& mark, const std::string& value) {
    if (value.empty()) {
      refuse(mark, fmt::format("{} has an empty value; leave the line out for the default",
                               settings_.back().key));
    }
    settings_.back().values.push_back(value);
  }

  std::vector<FileSetting> settings_;
  Place place_ = Place::kStart;
  YAML::Mark list_;
  int documents_ = 0;
};

}  // namespace

base::Result<std::vector<FileSetting>> parse_settings(const std::string& text,
                                                      const std::string& name) {
  if (text.size() > kMostBytes) {
    return base::fail("{}: a settings file has at most {} bytes, this one has {}", name, kMostBytes,
                      text.size());
  }
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    Reader reader;
    while (parser.HandleNextDocument(reader)) {
    }
    return reader.take();
  } catch (const YAML::Exception& error) {
    return base::fail("{}:{}: {}", name, error.mark.line + 1, error.msg);
  }
}

base::Result<std::vector<FileSetting>> read_settings_file(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return base::fail("--config {}: there is no such file", path);
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(kMostBytes + 1, '\0');
  file.read(text.data(), std::ssize(text));
  if (file.bad() || (file.fail() && !file.eof())) {
    return base::fail("--config {}: cannot be read", path);
  }
  text.resize(static_cast<size_t>(file.gcount()));
  return parse_settings(text, path);
}

}  // namespace fourfold::cli
