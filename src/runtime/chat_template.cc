#include "runtime/chat_template.h"

#include <cctype>
#include <chrono>
#include <filesystem>
#include <string_view>
#include <utility>

#include "files/gguf.h"
#include "files/json.h"
#include "files/mapped_file.h"

namespace fourfold::runtime {
namespace {

namespace fs = std::filesystem;

base::Result<std::string> read_text(const fs::path& path) {
  FF_ASSIGN(const files::MappedFile file, files::MappedFile::open(path));
  return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
}

/// "chat_template" of a JSON file: a string, or a list of {name, template}. Empty: not there.
base::Result<std::string> from_json_file(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return std::string();
  FF_ASSIGN(const nlohmann::json json, files::parse_json_file(path));
  const auto found = json.is_object() ? json.find("chat_template") : json.end();
  if (found == json.end() || found->is_null()) return std::string();
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array()) {
    for (const nlohmann::json& entry : *found) {
      FF_ASSIGN(const std::string name, files::json_get<std::string>(entry, "name", path.string()));
      if (name == "default") {
        return files::json_get<std::string>(entry, "template", path.string());
      }
    }
    return base::fail("{} has several chat templates, none of which is named \"default\"",
                      path.string());
  }
  return base::fail("expected a string or a list for \"chat_template\" in {}, found {}",
                    path.string(), found->type_name());
}

base::Result<std::string> from_folder(const fs::path& folder) {
  std::error_code error;
  if (fs::exists(folder / "chat_template.jinja", error)) {
    return read_text(folder / "chat_template.jinja");
  }
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    FF_ASSIGN(std::string text, from_json_file(folder / name));
    if (!text.empty()) return text;
  }
  return std::string();
}

base::Result<std::string> from_gguf(const fs::path& path) {
  FF_ASSIGN(const files::GgufFile file, files::open_gguf(path));
  constexpr std::string_view kKey = "tokenizer.chat_template";
  if (!file.metadata.contains(kKey)) return std::string();
  FF_ASSIGN(const std::string_view text, file.metadata.get<std::string_view>(kKey));
  return std::string(text);
}

/// The word "tools", which is a template's only way to get at them.
bool names_tools(std::string_view text) {
  constexpr std::string_view kWord = "tools";
  const auto is_letter = [&](size_t i) {
    return i < text.size() &&
           (std::isalnum(static_cast<unsigned char>(text[i])) != 0 || text[i] == '_');
  };
  for (size_t at = text.find(kWord); at != text.npos; at = text.find(kWord, at + 1)) {
    if ((at == 0 || !is_letter(at - 1)) && !is_letter(at + kWord.size())) return true;
  }
  return false;
}

base::Result<std::string> text_of(const model::ModelSource& source, const std::string& file) {
  if (!file.empty()) return read_text(file);
  switch (source.kind) {
    case model::ModelSource::Kind::kFolder:
      return from_folder(source.path);
    case model::ModelSource::Kind::kGguf:
      return from_gguf(source.path);
    case model::ModelSource::Kind::kPreset:
      break;
  }
  return std::string();
}

}  // namespace

base::Result<ChatTemplate> ChatTemplate::load(const model::ModelSource& source,
                                              const text::Tokenizer& tokenizer,
                                              const std::string& file) {
  FF_ASSIGN(const std::string text, text_of(source, file));
  if (text.empty()) {
    return base::fail(
        "{} has no chat template: it may be no chat model; --chat-template FILE gives it one",
        source.name);
  }
  FF_ASSIGN(jinja::Template parsed, jinja::Template::parse(text));
  return ChatTemplate(std::move(parsed), tokenizer, names_tools(text));
}

base::Result<std::string> ChatTemplate::render(const nlohmann::ordered_json& messages,
                                               const nlohmann::ordered_json& tools,
                                               bool add_generation_prompt) const {
  const auto piece = [this](std::optional<int32_t> id) {
    return std::string(id ? tokenizer_.token_piece(*id) : std::string_view());
  };
  jinja::Dict names;
  names.set("messages", jinja::from_json(messages));
  names.set("add_generation_prompt", add_generation_prompt);
  names.set("bos_token", piece(tokenizer_.bos()));
  names.set("eos_token", piece(tokenizer_.eos()));
  if (!tools.is_null()) names.set("tools", jinja::from_json(tools));
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return template_.render(names, std::chrono::duration_cast<std::chrono::seconds>(now).count());
}

base::Result<std::vector<int32_t>> ChatTemplate::encode(const nlohmann::ordered_json& messages,
                                                        const nlohmann::ordered_json& tools,
                                                        bool add_generation_prompt) const {
  FF_ASSIGN(const std::string text, render(messages, tools, add_generation_prompt));
  return tokenizer_.encode_marked(text);
}

}  // namespace fourfold::runtime
