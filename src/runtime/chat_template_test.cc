#include "runtime/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "files/scratch_folder.h"
#include "runtime/load_tokenizer.h"

namespace fourfold::runtime {
namespace {

using testing::HasSubstr;

class ChatTemplates : public testing::Test {
 protected:
  ChatTemplates() { source_.path = folder_.path().string(); }

  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_.path() / name) << text;
  }
  std::string file(const std::string& name) { return (folder_.path() / name).string(); }
  /// What the folder's template makes of one message, or the error.
  std::string rendered(const std::string& file = "") {
    const auto chat = ChatTemplate::load(source_, tokenizer_, file);
    if (!chat.ok()) return chat.error().message;
    const auto text = chat->render({{{"role", "user"}, {"content", "Hi"}}}, nullptr, true);
    return text.ok() ? *text : text.error().message;
  }

  files::ScratchFolder folder_;
  model::ModelSource source_{.name = "m", .kind = model::ModelSource::Kind::kFolder};
  text::Tokenizer tokenizer_ = load_tokenizer(model::open_model("tiny", false, 0).value()).value();
};

TEST_F(ChatTemplates, AreFoundWhereModelsKeepThem) {
  EXPECT_THAT(rendered(), HasSubstr("m has no chat template"));
  write("tokenizer_config.json", R"({"chat_template": "config {{ messages[0].content }}"})");
  EXPECT_EQ(rendered(), "config Hi");
  write("chat_template.json", R"({"chat_template": "json {{ messages[0].role }}"})");
  EXPECT_EQ(rendered(), "json user");
  write("chat_template.jinja", "jinja {{ add_generation_prompt }} {{ tools is defined }}\n");
  EXPECT_EQ(rendered(), "jinja True False");
  write("mine", "mine");
  EXPECT_EQ(rendered(file("mine")), "mine");
}

TEST_F(ChatTemplates, OfSeveralTheDefaultIsTaken) {
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]})");
  EXPECT_EQ(rendered(), "yes");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "no"}]})");
  EXPECT_THAT(rendered(), HasSubstr("none of which is named \"default\""));
  write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THAT(rendered(), HasSubstr("expected a string or a list"));
}

TEST_F(ChatTemplates, BecomeTheIdsOfTheirText) {
  write("chat_template.jinja", "{{ bos_token }}{{ messages[0].content }}");
  const auto chat = ChatTemplate::load(source_, tokenizer_, "");
  const auto ids =
      chat->encode({{{"role", "user"}, {"content", "In the beginning"}}}, nullptr, true);
  std::vector<int32_t> expected = *tokenizer_.encode("In the beginning", /*add_special=*/false);
  if (tokenizer_.bos()) expected.insert(expected.begin(), *tokenizer_.bos());
  EXPECT_EQ(*ids, expected);
}

}  // namespace
}  // namespace fourfold::runtime
