#pragma once

#include <string_view>

#include "jinja/value.h"

namespace fourfold::jinja {

/// A filter that needs only its value and arguments: `value | NAME(...)`. Null: there is none.
using Filter = Value (*)(const Value& value, Call& call);
Filter find_filter(std::string_view name);

/// `value is NAME(...)`.
using Test = bool (*)(const Value& value, Call& call);
Test find_test(std::string_view name);

/// A method of a string, list or dict, bound to it; nothing where Python has none or a template may
/// not call it.
Value find_method(const Value& value, std::string_view name);

/// range, dict, namespace, raise_exception, joiner, strftime_now.
Dict globals(int64_t now_unix_s);

/// value.name and value[key], in Jinja's order: attributes (methods) first, or items first.
Value attribute(const Value& value, std::string_view name);
Value item(const Value& value, const Value& key);
/// "a.b.0" of a value, each part an attribute or an index; or its element of that index.
Value deep_attribute(const Value& value, const Value& path);
/// value[begin:end:step], each maybe None.
Value slice(const Value& value, const Value& begin, const Value& end, const Value& step,
            Budget& budget);
/// a OP b for + - * / // % ** ~.
Value arithmetic(std::string_view op, const Value& a, const Value& b, Budget& budget);

/// An int argument; errors name the callable.
int64_t integer_of(const Value& value, std::string_view what);
const std::string& string_of(const Value& value, std::string_view what);

}  // namespace fourfold::jinja
