// The house of docs/architecture.md as a test: which room may include which, and where the few
// things live that must live in one place only. The checkers are functions over texts, so that
// made- up offenders can show that each of them fails.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace fourfold {
namespace {

constexpr int64_t kMaxFileLines = 600;     // the soft limit is 500
constexpr int64_t kMaxEngineLines = 2000;  // without tests

struct File {
  std::string path;  // from src/, for example "engine/scheduler.cc"
  std::string text;
};

/// Room → itself and every room that it may include.
using Rooms = std::map<std::string, std::set<std::string>>;
/// "path:line: what is wrong", in the order of files and lines.
using Findings = std::vector<std::string>;

std::string room_of(std::string_view path) {
  const size_t slash = path.find('/');
  return slash == std::string_view::npos ? "" : std::string(path.substr(0, slash));
}

bool is_test(std::string_view path) {
  return path.ends_with("_test.cc") || path.ends_with("_test.h");
}

/// Calls visit(line number, line without its // comment) for each line of `text`.
template <typename Visit>
void for_each_line(const std::string& text, Visit visit) {
  std::istringstream in(text);
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    visit(number, line.substr(0, line.find("//")));
  }
}

/// Reads the lines `ff_room(NAME [THREADED] [USES rooms...] [LIBS ...])`. A room may use only rooms
/// listed above it; anything else becomes a finding.
Rooms parse_rooms(const std::string& cmake, Findings* findings) {
  Rooms rooms;
  const std::regex call(R"(^ff_room\(([^)]*)\))");
  int64_t number = 0;
  std::istringstream lines(cmake);
  for (std::string line; std::getline(lines, line);) {
    ++number;
    std::smatch match;
    if (!std::regex_search(line, match, call)) continue;
    std::istringstream words(match[1].str());
    std::string name;
    words >> name;
    std::set<std::string> reachable = {name};
    bool in_uses = false;
    for (std::string word; words >> word;) {
      if (word == "USES" || word == "LIBS" || word == "THREADED") {
        in_uses = word == "USES";
      } else if (in_uses && rooms.contains(word)) {
        reachable.insert(rooms[word].begin(), rooms[word].end());
      } else if (in_uses) {
        findings->push_back(fmt::format(
            "CMakeLists.txt:{}: {} uses {}, which is not a room above it", number, name, word));
      }
    }
    rooms[name] = reachable;
  }
  return rooms;
}

/// Quoted includes name a file of the room itself or of a room that it may use. Files directly in
/// src/ belong to no room and may include all.
Findings check_includes(const File& file, const Rooms& rooms) {
  Findings findings;
  const std::string room = room_of(file.path);
  if (!room.empty() && !rooms.contains(room)) {
    return {
        fmt::format("{}:1: the folder {} is not a room of src/CMakeLists.txt", file.path, room)};
  }
  const std::regex include(R"re(^\s*#\s*include\s*"([^"]*)")re");
  for_each_line(file.text, [&](int64_t number, const std::string& line) {
    std::smatch match;
    if (!std::regex_search(line, match, include)) return;
    const std::string target = room_of(match[1].str());
    if (!rooms.contains(target)) {
      findings.push_back(fmt::format("{}:{}: \"{}\" does not begin with a room", file.path, number,
                                     match[1].str()));
    } else if (!room.empty() && !rooms.at(room).contains(target)) {
      findings.push_back(fmt::format("{}:{}: {} must not include {} (\"{}\")", file.path, number,
                                     room, target, match[1].str()));
    }
  });
  return findings;
}

/// Every file of a room that has more than preprocessor lines opens namespace fourfold::<room>, or
/// one inside it, and no other of ours.
Findings check_namespace(const File& file) {
  const std::string room = room_of(file.path);
  if (room.empty()) return {};
  Findings findings;
  bool found = false;
  bool has_code = false;
  const std::string expected = "fourfold::" + room;
  const std::regex opening(R"(^namespace\s+(fourfold[\w:]*))");
  for_each_line(file.text, [&](int64_t number, const std::string& line) {
    std::smatch match;
    has_code |= !line.empty() && line[0] != '#';
    if (!std::regex_search(line, match, opening)) return;
    const std::string name = match[1].str();
    if (name == expected || name.starts_with(expected + "::")) {
      found = true;
    } else {
      findings.push_back(
          fmt::format("{}:{}: namespace {} in room {}", file.path, number, name, room));
    }
  });
  if (has_code && !found && findings.empty()) {
    findings.push_back(fmt::format("{}:1: nothing in namespace {}", file.path, expected));
  }
  return findings;
}

/// A word or header that only files under some folders may contain.
struct Confined {
  std::string name;
  std::regex pattern;
  std::vector<std::string> folders;
};

std::vector<Confined> confined_things() {
  const std::vector<std::string> cuda = {"backend/cuda/", "comm/nccl/"};
  return {
      {"a device macro", std::regex(R"(\b(__CUDA\w*|USE_CUDA\w*)\b)"), cuda},
      {"a device header", std::regex(R"(#\s*include\s*[<"](cuda|cublas|nccl|nvml)\w*[./])"), cuda},
      {"mpi.h", std::regex(R"(#\s*include\s*[<"]mpi\.h[>"])"), {"comm/mpi/"}},
  };
}

Findings check_confined(const File& file) {
  Findings findings;
  for (const Confined& thing : confined_things()) {
    const auto holds = [&](const std::string& folder) { return file.path.starts_with(folder); };
    if (std::any_of(thing.folders.begin(), thing.folders.end(), holds)) continue;
    for_each_line(file.text, [&](int64_t number, const std::string& line) {
      if (std::regex_search(line, thing.pattern)) {
        findings.push_back(fmt::format("{}:{}: {} is allowed only in {}", file.path, number,
                                       thing.name, fmt::join(thing.folders, ", ")));
      }
    });
  }
  return findings;
}

/// A rank is a value that is handed over, so that many ranks can live in one process. clang-format
/// indents nothing at namespace scope: there a declaration begins in the first column.
Findings check_rank_globals(const File& file) {
  Findings findings;
  const std::regex external(R"(^\s*extern\s+(?!"C"|template\b|.*\bconst(expr)?\b|.*\())");
  const std::regex variable(
      R"(^(\s+(static|thread_local)\s+|(static|thread_local|inline)\s+|(?=\w))[\w:<>,\s*&]*\s[\w]*rank\w*\s*(;|=|\{|\[))",
      std::regex::icase);
  const std::regex harmless(R"(\b(const|constexpr|using|struct|class|enum|namespace|return)\b)");
  for_each_line(file.text, [&](int64_t number, const std::string& line) {
    if (std::regex_search(line, external)) {
      findings.push_back(fmt::format("{}:{}: extern variable", file.path, number));
    } else if (std::regex_search(line, variable) && !std::regex_search(line, harmless)) {
      findings.push_back(fmt::format("{}:{}: global rank state", file.path, number));
    }
  });
  return findings;
}

int64_t line_count(const std::string& text) { return std::count(text.begin(), text.end(), '\n'); }

Findings check_sizes(const std::vector<File>& files) {
  Findings findings;
  int64_t engine_lines = 0;
  for (const File& file : files) {
    if (is_test(file.path)) continue;
    const int64_t lines = line_count(file.text);
    if (room_of(file.path) == "engine") engine_lines += lines;
    if (lines > kMaxFileLines) {
      findings.push_back(fmt::format("{}:{}: {} lines, at most {}", file.path, kMaxFileLines, lines,
                                     kMaxFileLines));
    }
  }
  if (engine_lines > kMaxEngineLines) {
    findings.push_back(
        fmt::format("engine: {} lines without tests, at most {}", engine_lines, kMaxEngineLines));
  }
  return findings;
}

void append(Findings* all, const Findings& more) {
  all->insert(all->end(), more.begin(), more.end());
}

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<File> read_sources() {
  const std::filesystem::path root = std::filesystem::path(FOURFOLD_SOURCE_DIR) / "src";
  std::vector<File> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    const std::string extension = entry.path().extension();
    if (extension == ".cc" || extension == ".h" || extension == ".cu" || extension == ".cuh") {
      files.push_back({entry.path().lexically_relative(root).string(), read(entry.path())});
    }
  }
  std::sort(files.begin(), files.end(),
            [](const File& a, const File& b) { return a.path < b.path; });
  return files;
}

std::string listed(const Findings& findings) {
  return fmt::format("{}", fmt::join(findings, "\n"));
}

class Sources : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    files_ = new std::vector<File>(read_sources());
    cmake_findings_ = new Findings();
    const std::filesystem::path root = FOURFOLD_SOURCE_DIR;
    rooms_ = new Rooms(parse_rooms(read(root / "src/CMakeLists.txt"), cmake_findings_));
  }

  template <typename Check>
  static Findings over_all_files(Check check) {
    Findings findings;
    for (const File& file : *files_) append(&findings, check(file));
    return findings;
  }

  static inline std::vector<File>* files_ = nullptr;
  static inline Rooms* rooms_ = nullptr;
  static inline Findings* cmake_findings_ = nullptr;
};

TEST_F(Sources, AreFoundWithTheirRooms) {
  EXPECT_GT(files_->size(), 20u);
  EXPECT_TRUE(rooms_->contains("engine"));
  EXPECT_EQ(listed(*cmake_findings_), "");
}

TEST_F(Sources, GiveTheEngineIntegersOnly) {
  for (const char* room : {"tensor", "comm", "backend", "model"}) {
    EXPECT_FALSE(rooms_->at("engine").contains(room)) << room;
  }
}

TEST_F(Sources, IncludeOnlyRoomsThatTheyMayUse) {
  EXPECT_EQ(listed(over_all_files([](const File& f) { return check_includes(f, *rooms_); })), "");
}

TEST_F(Sources, LiveInTheNamespaceOfTheirRoom) {
  EXPECT_EQ(listed(over_all_files(check_namespace)), "");
}

TEST_F(Sources, NameDevicesAndMpiOnlyWhereTheyBelong) {
  EXPECT_EQ(listed(over_all_files(check_confined)), "");
}

TEST_F(Sources, KeepNoRankInAGlobal) { EXPECT_EQ(listed(over_all_files(check_rank_globals)), ""); }

TEST_F(Sources, StayShort) { EXPECT_EQ(listed(check_sizes(*files_)), ""); }

const char kRooms[] =
    "ff_room(base LIBS fmt::fmt)\n"
    "ff_room(files USES base)\n"
    "ff_room(text THREADED USES files LIBS pcre)\n"
    "ff_room(mesh USES base)\n";

Rooms made_up_rooms() {
  Findings findings;
  return parse_rooms(kRooms, &findings);
}

TEST(RoomTable, IsReadWithWhatItReaches) {
  EXPECT_EQ(made_up_rooms().at("text"), (std::set<std::string>{"base", "files", "text"}));
  EXPECT_EQ(made_up_rooms().at("mesh"), (std::set<std::string>{"base", "mesh"}));
}

TEST(RoomTable, RefusesARoomThatIsNotListedAbove) {
  Findings findings;
  parse_rooms("ff_room(base USES text)\nff_room(text USES base)\n", &findings);
  EXPECT_EQ(listed(findings), "CMakeLists.txt:1: base uses text, which is not a room above it");
}

TEST(Includes, OfAForbiddenRoomAreFound) {
  const File file = {"mesh/mesh.cc",
                     "#include \"base/result.h\"\n"
                     "#include \"mesh/mesh.h\"\n"
                     "// #include \"text/bpe.h\"\n"
                     "#include \"text/bpe.h\"\n"};
  EXPECT_EQ(listed(check_includes(file, made_up_rooms())),
            "mesh/mesh.cc:4: mesh must not include text (\"text/bpe.h\")");
}

TEST(Includes, OfNoRoomAreFound) {
  EXPECT_EQ(listed(check_includes({"text/bpe.cc", "#include \"bpe.h\"\n"}, made_up_rooms())),
            "text/bpe.cc:1: \"bpe.h\" does not begin with a room");
  EXPECT_EQ(listed(check_includes({"attic/old.cc", ""}, made_up_rooms())),
            "attic/old.cc:1: the folder attic is not a room of src/CMakeLists.txt");
}

TEST(Includes, OfUsedRoomsPass) {
  EXPECT_EQ(
      listed(check_includes({"text/bpe.cc", "#include \"base/result.h\"\n"}, made_up_rooms())), "");
  EXPECT_EQ(listed(check_includes({"main.cc", "#include \"mesh/mesh.h\"\n"}, made_up_rooms())), "");
}

TEST(Namespaces, OfAnotherRoomOrNoneAreFound) {
  EXPECT_EQ(listed(check_namespace({"mesh/mesh.h", "\nnamespace fourfold::model {\n"})),
            "mesh/mesh.h:2: namespace fourfold::model in room mesh");
  EXPECT_EQ(listed(check_namespace({"mesh/mesh.h", "namespace fourfold::meshes {\n"})),
            "mesh/mesh.h:1: namespace fourfold::meshes in room mesh");
  EXPECT_EQ(listed(check_namespace({"mesh/mesh.h", "int x;\n"})),
            "mesh/mesh.h:1: nothing in namespace fourfold::mesh");
}

TEST(Namespaces, InsideTheRoomPass) {
  EXPECT_EQ(listed(check_namespace({"mesh/mesh.h", "#pragma once\n\n#include <mpi.h>\n"})), "");
  EXPECT_EQ(listed(check_namespace({"mesh/mesh.h", "namespace fourfold::mesh::rules {\n"})), "");
}

TEST(Confinement, OfDevicesAndMpiIsChecked) {
  EXPECT_EQ(listed(check_confined({"model/a.cc", "#ifdef __CUDACC__\n"})),
            "model/a.cc:1: a device macro is allowed only in backend/cuda/, comm/nccl/");
  EXPECT_EQ(listed(check_confined({"engine/a.cc", "#include <cuda_runtime.h>\n"})),
            "engine/a.cc:1: a device header is allowed only in backend/cuda/, comm/nccl/");
  EXPECT_EQ(listed(check_confined({"comm/local/a.cc", "\n#include <mpi.h>\n"})),
            "comm/local/a.cc:2: mpi.h is allowed only in comm/mpi/");
  EXPECT_EQ(listed(check_confined({"comm/mpi/a.cc", "#include <mpi.h>\n"})), "");
  EXPECT_EQ(listed(check_confined({"backend/cuda/a.cu", "#include <cuda_runtime.h>\n"})), "");
}

TEST(RankGlobals, AreFound) {
  const auto count = [](const std::string& line) {
    return check_rank_globals({"comm/a.cc", line + "\n"}).size();
  };
  for (const char* line :
       {"int rank = 0;", "static int g_rank;", "thread_local int64_t my_rank{0};", "extern int x;",
        "inline std::vector<int> ranks;", "  static int rank = 0;", "mesh::Rank current_rank;"}) {
    EXPECT_EQ(count(line), 1u) << line;
  }
  for (const char* line :
       {"  int rank = 0;", "constexpr int kMaxRank = 64;", "static const int rank = 0;",
        "int rank_of(int stage);", "extern \"C\" {", "  int64_t rank_;", "struct RankStats {",
        "using Rank = base::StrongId<struct RankTag>;", "  return rank;"}) {
    EXPECT_EQ(count(line), 0u) << line;
  }
}

TEST(Sizes, OfFilesAndOfTheEngineAreChecked) {
  const std::string half(1001, '\n');
  EXPECT_EQ(listed(check_sizes({{"mesh/long.cc", half}, {"mesh/long_test.cc", half}})),
            "mesh/long.cc:600: 1001 lines, at most 600");
  const std::string most(600, '\n');
  const std::vector<File> engine = {{"engine/a.cc", most},
                                    {"engine/b.cc", most},
                                    {"engine/c.cc", most},
                                    {"engine/d.cc", std::string(201, '\n')}};
  EXPECT_EQ(listed(check_sizes(engine)), "engine: 2001 lines without tests, at most 2000");
}

}  // namespace
}  // namespace fourfold
