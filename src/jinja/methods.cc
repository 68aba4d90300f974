// Methods of Python's strings, lists and dicts that do not change them.

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "jinja/builtins.h"

namespace fourfold::jinja {
namespace {

using Method = Value (*)(const Value& self, Call& call);

Value stripped(const Value& self, Call& call, bool left, bool right) {
  call.expect(1);
  const Value what = call.get(0, "");
  const std::string set = what.is_none() ? "" : string_of(what, call.name);
  if (!what.is_none() && set.empty()) return self;
  return std::string(strip(self.string(), set, left, right));
}

/// The parts of split and rsplit, which cut at most `most` times.
List parts_of(std::string_view text, const Value& separator, int64_t most, bool from_right) {
  List out;
  std::vector<std::string_view> parts;
  if (separator.is_none()) {
    text = strip(text, "", !from_right, from_right);
    while (!text.empty()) {
      if (std::ssize(parts) == most) {
        parts.push_back(strip(text, "", !from_right, from_right));
        break;
      }
      const auto all = characters(text);
      size_t size = 0;
      if (!from_right) {
        for (size_t i = 0; i < all.size() && !is_space(all[i]); ++i) size += all[i].size();
        parts.push_back(text.substr(0, size));
        text = strip(text.substr(size), "", true, false);
      } else {
        for (size_t i = all.size(); i-- > 0 && !is_space(all[i]);) size += all[i].size();
        parts.push_back(text.substr(text.size() - size));
        text = strip(text.substr(0, text.size() - size), "", false, true);
      }
    }
  } else {
    const std::string& by = string_of(separator, "split");
    if (by.empty()) throw TemplateError("split: the separator is empty");
    while (std::ssize(parts) != most) {
      const size_t at = from_right ? text.rfind(by) : text.find(by);
      if (at == std::string_view::npos) break;
      if (from_right) {
        parts.push_back(text.substr(at + by.size()));
        text = text.substr(0, at);
      } else {
        parts.push_back(text.substr(0, at));
        text = text.substr(at + by.size());
      }
    }
    parts.push_back(text);
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  for (const std::string_view part : parts) out.items.emplace_back(std::string(part));
  return out;
}

Value split(const Value& self, Call& call, bool from_right) {
  call.expect(2, {"sep", "maxsplit"});
  const int64_t most = integer_of(call.get(1, "maxsplit", int64_t{-1}), call.name);
  call.budget.take(self.string().size());
  return parts_of(self.string(), call.get(0, "sep"), most < 0 ? -1 : most, from_right);
}

Value replaced(const Value& self, Call& call) {
  call.expect(3, {"old", "new", "count"});
  const std::string& from = string_of(call.need(0, "old"), call.name);
  const std::string to = string_of(call.need(1, "new"), call.name);
  int64_t most = integer_of(call.get(2, "count", int64_t{-1}), call.name);
  const std::string& text = self.string();
  std::string out;
  if (from.empty()) {
    const auto all = characters(text);
    for (size_t i = 0; i <= all.size(); ++i) {
      if (most != 0) {
        out += to;
        --most;
      }
      if (i < all.size()) out += all[i];
      call.budget.take(to.size() + 1);
    }
    return out;
  }
  size_t at = 0;
  while (most-- != 0) {
    const size_t found = text.find(from, at);
    if (found == std::string::npos) break;
    out.append(text, at, found - at).append(to);
    call.budget.take(found - at + to.size() + 1);
    at = found + from.size();
  }
  return out + text.substr(at);
}

bool has_affix(const Value& self, Call& call, bool front) {
  call.expect(1);
  const Value what = call.need(0, "prefix");
  const std::vector<Value> all = what.is_tuple() ? what.list() : std::vector<Value>{what};
  return std::any_of(all.begin(), all.end(), [&](const Value& affix) {
    const std::string& text = string_of(affix, call.name);
    return front ? self.string().starts_with(text) : self.string().ends_with(text);
  });
}

Value without_affix(const Value& self, Call& call, bool front) {
  call.expect(1);
  const std::string& affix = string_of(call.need(0, "prefix"), call.name);
  const std::string& text = self.string();
  if (front && text.starts_with(affix)) return text.substr(affix.size());
  if (!front && text.ends_with(affix)) return text.substr(0, text.size() - affix.size());
  return self;
}

Value joined(const Value& self, Call& call) {
  call.expect(1);
  std::string out;
  bool first = true;
  for (const Value& part : elements(call.need(0, "iterable"))) {
    if (!first) out += self.string();
    first = false;
    out += string_of(part, "join");
    call.budget.take(self.string().size() + part.string().size());
  }
  return out;
}

Value found(const Value& self, Call& call, bool from_right) {
  call.expect(1);
  const std::string& what = string_of(call.need(0, "sub"), call.name);
  const size_t at = from_right ? self.string().rfind(what) : self.string().find(what);
  if (at == std::string::npos) return int64_t{-1};
  return static_cast<int64_t>(characters(std::string_view(self.string()).substr(0, at)).size());
}

int64_t count_of(const Value& self, Call& call) {
  call.expect(1);
  const Value what = call.need(0, "sub");
  if (self.is_list()) {
    return std::count_if(self.list().begin(), self.list().end(),
                         [&](const Value& v) { return equal(v, what); });
  }
  const std::string& part = string_of(what, call.name);
  if (part.empty()) return std::ssize(characters(self.string())) + 1;
  int64_t count = 0;
  for (size_t at = 0; (at = self.string().find(part, at)) != std::string::npos; at += part.size()) {
    ++count;
  }
  return count;
}

/// Words with a capital; `words` false: only the first character of all.
std::string capitalised(std::string_view text, bool words) {
  std::string out;
  bool inside = false;
  for (const std::string_view c : characters(text)) {
    const bool letter = upper(c) != lower(c);
    out += inside ? lower(c) : upper(c);
    inside = words ? letter : true;
  }
  return out;
}

template <typename Holds>
bool all_characters(const Value& self, const Holds& holds) {
  const auto all = characters(self.string());
  return !all.empty() && std::all_of(all.begin(), all.end(), holds);
}

bool has_case(const Value& self, bool is_upper) {
  const std::string& text = self.string();
  return upper(text) != lower(text) && text == (is_upper ? upper(text) : lower(text));
}

List lines_of(const Value& self, Call& call) {
  call.expect(1, {"keepends"});
  const bool keeps = call.get(0, "keepends").truthy();
  List out;
  std::string_view text = self.string();
  while (!text.empty()) {
    size_t line = 0;
    size_t end = 0;
    for (const std::string_view c : characters(text)) {
      end = line + c.size();
      if (c == "\r" && text.substr(end).starts_with('\n')) ++end;
      const bool breaks = c == "\n" || c == "\r" || c == "\v" || c == "\f" || c == "\x1c" ||
                          c == "\x1d" || c == "\x1e" || c == "\u0085" || c == "\u2028" ||
                          c == "\u2029";
      if (breaks) break;
      line += c.size();
    }
    out.items.emplace_back(std::string(text.substr(0, keeps ? end : line)));
    text.remove_prefix(end);
  }
  return out;
}

const std::map<std::string_view, Method>& string_methods() {
  static const std::map<std::string_view, Method> kMethods = {
      {"strip", [](const Value& s, Call& c) { return stripped(s, c, true, true); }},
      {"lstrip", [](const Value& s, Call& c) { return stripped(s, c, true, false); }},
      {"rstrip", [](const Value& s, Call& c) { return stripped(s, c, false, true); }},
      {"split", [](const Value& s, Call& c) { return split(s, c, false); }},
      {"rsplit", [](const Value& s, Call& c) { return split(s, c, true); }},
      {"splitlines", [](const Value& s, Call& c) { return Value(lines_of(s, c)); }},
      {"replace", replaced},
      {"startswith", [](const Value& s, Call& c) { return Value(has_affix(s, c, true)); }},
      {"endswith", [](const Value& s, Call& c) { return Value(has_affix(s, c, false)); }},
      {"removeprefix", [](const Value& s, Call& c) { return without_affix(s, c, true); }},
      {"removesuffix", [](const Value& s, Call& c) { return without_affix(s, c, false); }},
      {"join", joined},
      {"find", [](const Value& s, Call& c) { return found(s, c, false); }},
      {"rfind", [](const Value& s, Call& c) { return found(s, c, true); }},
      {"count", [](const Value& s, Call& c) { return Value(count_of(s, c)); }},
      {"upper",
       [](const Value& s, Call& c) {
         c.expect(0);
         return Value(upper(s.string()));
       }},
      {"lower",
       [](const Value& s, Call& c) {
         c.expect(0);
         return Value(lower(s.string()));
       }},
      {"title", [](const Value& s, Call& /*c*/) { return Value(capitalised(s.string(), true)); }},
      {"capitalize",
       [](const Value& s, Call& /*c*/) { return Value(capitalised(s.string(), false)); }},
      {"isdigit",
       [](const Value& s, Call& /*c*/) {
         return Value(all_characters(
             s, [](std::string_view c) { return c.size() == 1 && '0' <= c[0] && c[0] <= '9'; }));
       }},
      {"isspace", [](const Value& s, Call& /*c*/) { return Value(all_characters(s, is_space)); }},
      {"isalpha",
       [](const Value& s, Call& /*c*/) {
         return Value(all_characters(s, [](std::string_view c) { return upper(c) != lower(c); }));
       }},
      {"isupper", [](const Value& s, Call& /*c*/) { return Value(has_case(s, true)); }},
      {"islower", [](const Value& s, Call& /*c*/) { return Value(has_case(s, false)); }},
  };
  return kMethods;
}

Value dict_get(const Value& self, Call& call) {
  call.expect(2, {"key", "default"});
  const Value key = call.need(0, "key");
  check_key(key);
  const Value* found = self.dict().find(key);
  return found != nullptr ? *found : call.get(1, "default");
}

Value dict_items(const Value& self, Call& call) {
  call.expect(0);
  List out{.view = "dict_items"};
  for (const auto& [key, value] : self.dict().items) {
    call.budget.take(4 * sizeof(Value));
    out.items.emplace_back(List{.items = {key, value}, .tuple = true});
  }
  return out;
}

const std::map<std::string_view, Method>& dict_methods() {
  static const std::map<std::string_view, Method> kMethods = {
      {"get", dict_get},
      {"items", dict_items},
      {"keys",
       [](const Value& s, Call& c) {
         c.expect(0);
         return Value(List{.items = elements(s), .view = "dict_keys"});
       }},
      {"values",
       [](const Value& s, Call& c) {
         c.expect(0);
         List out{.view = "dict_values"};
         for (const auto& [key, value] : s.dict().items) out.items.push_back(value);
         return Value(out);
       }},
      {"copy", [](const Value& s, Call& /*c*/) { return s; }},
  };
  return kMethods;
}

const std::map<std::string_view, Method>& list_methods() {
  static const std::map<std::string_view, Method> kMethods = {
      {"count", [](const Value& s, Call& c) { return Value(count_of(s, c)); }},
      {"copy", [](const Value& s, Call& /*c*/) { return s; }},
      {"index",
       [](const Value& s, Call& c) {
         const Value what = c.need(0, "value");
         for (size_t i = 0; i < s.list().size(); ++i) {
           if (equal(s.list()[i], what)) return Value(static_cast<int64_t>(i));
         }
         throw TemplateError(fmt::format("{} is not in the list", to_repr(what)));
       }},
  };
  return kMethods;
}

}  // namespace

Value find_method(const Value& value, std::string_view name) {
  const std::map<std::string_view, Method>* methods = nullptr;
  if (value.is_string()) methods = &string_methods();
  if (value.is_dict()) methods = &dict_methods();
  if (value.is_list()) methods = &list_methods();
  if (methods == nullptr) return {};
  const auto found = methods->find(name);
  if (found == methods->end()) return {};
  const Method method = found->second;
  return Callable{std::string(name), [value, method](Call& call) {
                    call.budget.touch(value);
                    return method(value, call);
                  }};
}

}  // namespace fourfold::jinja
