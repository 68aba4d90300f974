#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "grammar/graph.h"

namespace fourfold::grammar {

/// JSON texts that agree with a JSON Schema (2020-12), as one of many languages in which all do:
/// - Members stand in the order of "properties", then others where additionalProperties allows
///   them; where it is absent it is false, but for an object without properties.
/// - Spaces: none or one, or a line end and up to 20 spaces or tabs, behind { [ , and : and before
///   } and ].
/// - Exponents of numbers have one or two digits. In strings that have a pattern, a format or a
///   given value, and in names of members, only what has to be escaped is.
///
/// Keywords: type, enum, const, anyOf, oneOf (as anyOf), allOf of one, $ref into the document with
/// $defs; properties, required, additionalProperties; items, prefixItems, minItems, maxItems;
/// minLength, maxLength, pattern (see regex.h), format (date, time, date-time, uuid, ipv4, email);
/// minimum, maximum, exclusiveMinimum, exclusiveMaximum with whole bounds, of numbers without
/// exponents then. Notes such as title, description and default change nothing. Errors name any
/// other keyword, and where it stands.
base::Result<Graph> schema_graph(const nlohmann::ordered_json& schema);

/// Any JSON object.
Graph json_object_graph();

/// Texts that a regular expression matches (regex.h) from end to end.
base::Result<Graph> regex_graph(std::string_view pattern);

/// One of several texts. Errors: there is none, or an empty one.
base::Result<Graph> choice_graph(const std::vector<std::string>& choices);

}  // namespace fourfold::grammar
