#include "model/source.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <utility>

#include "files/gguf.h"
#include "files/json.h"
#include "files/safetensors.h"
#include "model/families/family.h"
#include "model/presets.h"

namespace fourfold::model {
namespace {

namespace fs = std::filesystem;

/// Folders that may hold the built-in models: beside an installed program, then the source tree
/// that it was built from.
std::vector<fs::path> builtin_folders() {
  std::vector<fs::path> out;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error).parent_path();
  if (!error) {
    out.push_back(program / "models");
    out.push_back(program.parent_path() / "share" / "fourfold" / "models");
  }
  out.emplace_back(FOURFOLD_MODELS_DIR);
  return out;
}

std::optional<fs::path> builtin(std::string_view name) {
  if (name != "tiny" && name != "tiny-moe") return std::nullopt;
  for (const fs::path& folder : builtin_folders()) {
    std::error_code error;
    if (fs::exists(folder / name / "config.json", error)) return folder / name;
  }
  return std::nullopt;
}

/// The snapshot of a hub id ("org/name") in the cache that huggingface_hub keeps: the one that its
/// branch main names, else the newest.
std::optional<fs::path> hub_snapshot(std::string_view id) {
  const size_t slash = id.find('/');
  if (slash == std::string_view::npos || id.find('/', slash + 1) != std::string_view::npos) {
    return std::nullopt;
  }
  fs::path hub;
  if (const char* cache = std::getenv("HF_HUB_CACHE")) {
    hub = cache;
  } else if (const char* home = std::getenv("HF_HOME")) {
    hub = fs::path(home) / "hub";
  } else if (const char* user = std::getenv("HOME")) {
    hub = fs::path(user) / ".cache" / "huggingface" / "hub";
  } else {
    return std::nullopt;
  }
  std::error_code error;
  const fs::path model =
      hub / fmt::format("models--{}--{}", id.substr(0, slash), id.substr(slash + 1));
  const fs::path snapshots = model / "snapshots";
  std::string commit;
  if (std::ifstream(model / "refs" / "main") >> commit &&
      fs::exists(snapshots / commit / "config.json", error)) {
    return snapshots / commit;
  }
  std::optional<fs::path> newest;
  fs::file_time_type newest_time;
  for (const fs::directory_entry& entry : fs::directory_iterator(snapshots, error)) {
    const fs::file_time_type time = entry.last_write_time(error);
    if (error || !fs::exists(entry.path() / "config.json", error)) continue;
    if (!newest || time > newest_time) {
      newest = entry.path();
      newest_time = time;
    }
  }
  return newest;
}

/// The architectures of one format that some family reads, for messages.
std::string known(std::vector<std::string_view> Family::*architectures) {
  std::vector<std::string_view> names;
  for (const Family* family : families()) {
    const auto& own = family->*architectures;
    names.insert(names.end(), own.begin(), own.end());
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

/// Descriptions have a few kilobytes. A parsed text takes up to 24 times its bytes of memory.
constexpr files::JsonLimits kDescriptionLimits = {.max_bytes = int64_t{1} << 20};

base::Result<nlohmann::json> parse_object(const fs::path& path) {
  FF_ASSIGN(nlohmann::json value, files::parse_json_file(path, kDescriptionLimits));
  if (value.is_object()) return value;
  return base::fail("expected a JSON object in {}, found {}", path.string(), value.type_name());
}

base::Result<ModelSpec> spec_from_config(const nlohmann::json& config, std::string_view what) {
  const nlohmann::json architectures = config.value("architectures", nlohmann::json::array());
  for (const Family* family : families()) {
    for (const std::string_view name : family->hf_architectures) {
      if (architectures.is_array() &&
          std::find(architectures.begin(), architectures.end(), name) != architectures.end()) {
        return family->from_config(config);
      }
    }
  }
  return base::fail("{}: architecture {} is not supported; fourfold knows {}", what,
                    architectures.dump(), known(&Family::hf_architectures));
}

/// generation_config.json, where there is one, knows more end tokens than config.json.
base::Status add_generation_config(const fs::path& folder, ModelSpec& spec) {
  const fs::path path = folder / "generation_config.json";
  std::error_code error;
  if (!fs::exists(path, error)) return {};
  FF_ASSIGN(const nlohmann::json config, parse_object(path));
  FF_ASSIGN(std::vector<int32_t> eos,
            read_token_ids(config, "eos_token_id", spec.vocab, path.string()));
  if (!eos.empty()) spec.eos_tokens = std::move(eos);
  return {};
}

/// The file's tensor is the parameter, or the stack of parameters that this one is in.
base::Status check_shape(const ModelSource& source, const Param& param,
                         const files::TensorEntry& entry) {
  if (param.stacked == 1) {
    if (entry.rows() == param.rows && entry.columns() == param.columns) return {};
    return base::fail("{}: tensor \"{}\" is [{}], expected [{}, {}] from the configuration",
                      source.path, param.name, fmt::join(entry.shape, ", "), param.rows,
                      param.columns);
  }
  if (entry.shape == std::vector{param.stacked, param.rows, param.columns}) return {};
  return base::fail(
      "{}: tensor \"{}\" is [{}], expected [{}, {}, {}] from the configuration: {} experts of "
      "{} x {}",
      source.path, param.name, fmt::join(entry.shape, ", "), param.stacked, param.rows,
      param.columns, param.stacked, param.rows, param.columns);
}

/// No tensor of the file is what a layer after the last one would have.
base::Status check_last_layer(const ModelSource& source) {
  const auto layers = static_cast<int32_t>(source.spec.layers.size());
  const std::string last = fmt::format(".{}.", layers - 1);
  for (const Param& param : source.spec.params) {
    const size_t at = param.name.find(last);
    if (param.layer != layers - 1 || at == std::string::npos) continue;
    std::string next = param.name;
    next.replace(at, last.size(), fmt::format(".{}.", layers));
    if (source.tensors->find(next) != nullptr) {
      return base::fail(
          "{}: the configuration says {} layers, but there is a tensor \"{}\" of one more; correct "
          "the number of layers",
          source.path, layers, next);
    }
  }
  return {};
}

/// Every parameter is in the file, in the shape that the configuration promises; no layer and no
/// bias that would change the answers is left unread.
base::Status check_tensors(const ModelSource& source) {
  std::set<std::string_view> biases;
  for (const Param& param : source.spec.params) {
    if (param.is_vector && !is_norm(param.kind)) biases.insert(param.name);
  }
  for (const files::TensorEntry& entry : source.tensors->entries()) {
    if (entry.name.ends_with(".bias") && !biases.contains(entry.name)) {
      return base::fail("{}: the tensor \"{}\" is a bias that is not supported in a {} model",
                        source.path, entry.name, source.spec.family);
    }
  }
  for (const Param& param : source.spec.params) {
    const files::TensorEntry* entry = source.tensors->find(param.name);
    if (entry == nullptr) {
      return base::fail(
          "{}: tensor \"{}\" is missing ({} tensors found); the checkpoint is not "
          "complete or not of the architecture that it names",
          source.path, param.name, source.tensors->entries().size());
    }
    FF_TRY(check_shape(source, param, *entry));
  }
  return check_last_layer(source);
}

base::Result<ModelSource> open_folder(std::string_view name, const fs::path& folder, bool dummy) {
  ModelSource source{.name = std::string(name),
                     .kind = ModelSource::Kind::kFolder,
                     .path = folder.string(),
                     .spec = {},
                     .tensors = nullptr};
  std::error_code error;
  if (!fs::exists(folder / "config.json", error)) {
    return base::fail("{} has no config.json: expected a Hugging Face model folder", source.path);
  }
  FF_ASSIGN(const nlohmann::json config, parse_object(folder / "config.json"));
  FF_ASSIGN(source.spec, spec_from_config(config, (folder / "config.json").string()));
  FF_TRY(add_generation_config(folder, source.spec));
  if (dummy) return source;
  FF_ASSIGN(files::TensorStore tensors, files::open_safetensors_folder(folder));
  source.tensors = std::make_shared<const files::TensorStore>(std::move(tensors));
  FF_TRY(check_tensors(source));
  return source;
}

base::Result<ModelSource> open_gguf_model(std::string_view name, const fs::path& path, bool dummy) {
  FF_ASSIGN(files::GgufFile file, files::open_gguf(path));
  FF_ASSIGN(const std::string_view architecture,
            file.metadata.get<std::string_view>("general.architecture"));
  for (const Family* family : families()) {
    const auto& known = family->gguf_architectures;
    if (std::find(known.begin(), known.end(), architecture) == known.end()) continue;
    ModelSource source{.name = std::string(name),
                       .kind = ModelSource::Kind::kGguf,
                       .path = path.string(),
                       .spec = {},
                       .tensors = nullptr};
    FF_ASSIGN(source.spec, family->from_gguf(file));
    source.tensors = std::make_shared<const files::TensorStore>(std::move(file.tensors));
    FF_TRY(check_tensors(source));
    if (dummy) source.tensors = nullptr;
    return source;
  }
  return base::fail("{}: GGUF architecture \"{}\" is not supported; fourfold knows {}",
                    path.string(), architecture, known(&Family::gguf_architectures));
}

base::Error not_found(std::string_view name) {
  return base::fail(
      "model \"{}\" was not found: expected a Hugging Face folder, a GGUF file, \"tiny\", "
      "\"tiny-moe\", the id of a model in the Hugging Face cache, or with --load-format dummy one "
      "of {}",
      name, fmt::join(preset_names(), ", "));
}

/// Tells every layer with experts how its rows choose them.
base::Status set_dummy_routing(ModelSpec& spec, bool dummy, const DummyRouting& routing) {
  if (routing.natural) return {};
  if (!dummy) {
    return base::fail(
        "the routing \"{}\" is for made-up weights; these are a model's own: leave out "
        "--dummy-routing or add --load-format dummy",
        to_string(routing));
  }
  if (spec.experts() == 0) {
    return base::fail("the routing \"{}\" needs a model with experts; this one is dense",
                      to_string(routing));
  }
  for (LayerSpec& layer : spec.layers) layer.experts.dummy_routing = routing;
  return {};
}

base::Result<ModelSource> open_preset(std::string_view name, bool dummy) {
  const auto preset = preset_config(name);
  if (!preset) return not_found(name);
  if (!dummy) {
    return base::fail(
        "the weights of {} are not here: give a folder or a GGUF file, or run it with "
        "made-up weights by --load-format dummy",
        name);
  }
  ModelSource source{.name = std::string(name),
                     .kind = ModelSource::Kind::kPreset,
                     .path = "",
                     .spec = {},
                     .tensors = nullptr};
  FF_ASSIGN(source.spec, spec_from_config(*preset, name));
  return source;
}

base::Result<ModelSource> find_model(std::string_view name, bool dummy) {
  std::error_code error;
  const fs::path path(name);
  if (const auto folder = builtin(name)) return open_folder(name, *folder, dummy);
  if (fs::is_directory(path, error)) return open_folder(name, path, dummy);
  if (fs::exists(path, error)) return open_gguf_model(name, path, dummy);
  if (const auto snapshot = hub_snapshot(name)) return open_folder(name, *snapshot, dummy);
  return open_preset(name, dummy);
}

}  // namespace

base::Result<ModelSource> open_model(std::string_view name, bool dummy, uint64_t dummy_seed,
                                     const DummyRouting& dummy_routing) {
  FF_ASSIGN(ModelSource source, find_model(name, dummy));
  FF_TRY(set_dummy_routing(source.spec, dummy, dummy_routing));
  source.dummy_seed = dummy_seed;
  return source;
}

}  // namespace fourfold::model
