#include "adapter/server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstring>
#include <fstream>
#include <sstream>

#include "files/printable.h"
#include "measure/endpoint.h"
#include "runtime/control/unique_fd.h"
#include "runtime/launch/guard.h"
#include "runtime/launch/interrupt.h"

namespace fourfold::adapter {
namespace {

constexpr size_t kLogTail = size_t{64} << 10;
constexpr size_t kMostWords = 300;  // bytes
constexpr size_t kLastLines = 3;
/// For the program behind a refused request to end, if that is why.
constexpr std::chrono::seconds kEndAfterRefusal(5);

std::string read_tail(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const auto size = static_cast<int64_t>(file.tellg());
  if (size <= 0) return "";
  const int64_t begin = std::max<int64_t>(0, size - static_cast<int64_t>(kLogTail));
  file.seekg(begin);
  std::string out(static_cast<size_t>(size - begin), '\0');
  file.read(out.data(), size - begin);
  out.resize(static_cast<size_t>(file.gcount()));
  return out;
}

/// Without escape sequences of terminals and what else is not to be printed.
std::string plain(const std::string& line) {
  std::string out;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\x1b') {
      while (i < line.size() && std::isalpha(static_cast<unsigned char>(line[i])) == 0) ++i;
    } else if (static_cast<unsigned char>(line[i]) >= ' ') {
      out += line[i];
    }
  }
  const size_t begin = out.find_first_not_of(' ');
  return begin == std::string::npos ? "" : out.substr(begin);
}

bool names_error(const std::string& line) {
  // The end of a Python traceback, which a later one only refers to.
  return (line.find("Error: ") != std::string::npos || line.find("error: ") != std::string::npos) &&
         line.find("root cause above") == std::string::npos &&
         line.find("See stack trace") == std::string::npos;
}

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> out;
  std::error_code error;
  const std::filesystem::path tasks = fmt::format("/proc/{}/task", pid);
  for (std::filesystem::directory_iterator it(tasks, error), end; !error && it != end;
       it.increment(error)) {
    std::ifstream file(it->path() / "children");
    for (pid_t child = 0; file >> child;) out.push_back(child);
  }
  return out;
}

/// Adds the process and all that came from it. A process that ends meanwhile counts no more.
void add_use(pid_t pid, ProcessUse& use) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');  // the name may hold anything
  if (name_end != std::string::npos) {
    std::istringstream fields(text.substr(name_end + 1));
    std::vector<std::string> values;
    for (std::string value; fields >> value;) values.push_back(value);
    // proc(5): fields 14 to 17 are the times, children's that were waited for too; 24 is resident.
    constexpr size_t kTimes = 11;
    constexpr size_t kResident = 21;
    if (values.size() > kResident) {
      for (size_t i = kTimes; i < kTimes + 4; ++i) {
        use.cpu_s += std::stod(values[i]) / static_cast<double>(sysconf(_SC_CLK_TCK));
      }
      use.resident_bytes += std::stoll(values[kResident]) * sysconf(_SC_PAGESIZE);
    }
  }
  for (const pid_t child : children_of(pid)) add_use(child, use);
}

http::Url local_url(uint16_t port) { return {.host = "127.0.0.1", .port = port, .path = ""}; }

/// As measure::Endpoint says it. The numbers alone may be a port's.
bool refuses_key(const std::string& message) {
  return message.find("HTTP 401") != std::string::npos ||
         message.find("HTTP 403") != std::string::npos;
}

base::Status ask(measure::Endpoint& endpoint, const std::string& model) {
  const auto answer = endpoint.ask({.model = model, .prompt = std::string("1"), .max_tokens = 1});
  return answer.ok() ? base::Status() : base::Status(answer.error());
}

}  // namespace

std::string last_words(const std::string& log) {
  std::vector<std::string> lines;
  std::string error;
  std::istringstream in(log);
  for (std::string line; std::getline(in, line);) {
    line = plain(line);
    if (std::none_of(line.begin(), line.end(),
                     [](unsigned char c) { return std::isalpha(c) != 0; })) {
      continue;
    }
    if (names_error(line)) error = line;
    lines.push_back(std::move(line));
  }
  if (error.empty()) {
    const size_t begin = lines.size() - std::min(lines.size(), kLastLines);
    error = fmt::format("{}",
                        fmt::join(lines.begin() + static_cast<int64_t>(begin), lines.end(), " / "));
  }
  return files::printable(error, kMostWords);
}

base::Result<uint16_t> free_port() {
  const runtime::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (!fd.valid() || bind(fd.get(), generic, size) != 0 ||
      getsockname(fd.get(), generic, &size) != 0) {
    return base::fail("no free port on 127.0.0.1: {}", std::strerror(errno));
  }
  return ntohs(address.sin_port);
}

base::Result<std::string> find_command(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    if (access(name.c_str(), X_OK) == 0) return name;
    return base::fail("{} cannot be started: {}", name, std::strerror(errno));
  }
  const auto found = runtime::find_in_path(name);
  if (found) return found->string();
  return base::fail("command {} not found: install it, or name another with --engine-command",
                    name);
}

base::Result<std::unique_ptr<Server>> Server::start(const Options& options,
                                                    const std::string& guard) {
  FF_ASSIGN(runtime::RunDir run_dir, runtime::RunDir::create());
  runtime::ChildProcess::Options child{.args = runtime::guard_args(guard, run_dir.path()),
                                       .environment = options.environment,
                                       .output = options.log};
  child.args.insert(child.args.end(), options.args.begin(), options.args.end());
  FF_ASSIGN(runtime::ChildProcess process, runtime::ChildProcess::spawn(child));
  return std::unique_ptr<Server>(
      new Server(std::move(run_dir), std::move(process), options.log, options.port));
}

Server::Server(runtime::RunDir run_dir, runtime::ChildProcess guard, std::filesystem::path log,
               uint16_t port)
    : run_dir_(std::move(run_dir)),
      guard_(std::move(guard)),
      log_(std::move(log)),
      url_(local_url(port)) {}

Server::~Server() {
  // An engine that ends by itself gives back what no kill would, its shared memory for example.
  for (const pid_t child : children_of(guard_.pid())) kill(child, SIGTERM);
  guard_.wait_exit(kEndLimit);
  guard_.end();
}

std::optional<std::string> Server::ended(std::chrono::milliseconds limit) {
  const std::optional<int> status = guard_.wait_exit(limit);
  if (!status) return std::nullopt;
  const std::string words = last_words(read_tail(log_));
  return runtime::describe_exit(*status) +
         (words.empty() ? ", without a word" : ", its last words: " + words);
}

ProcessUse Server::use() const {
  ProcessUse out;
  for (const pid_t child : children_of(guard_.pid())) add_use(child, out);
  return out;
}

base::Status check_answers(const http::Url& url, const std::string& api_key) {
  measure::Endpoint endpoint(url, api_key);
  FF_ASSIGN(const std::string model, endpoint.first_model());
  const base::Status answer = ask(endpoint, model);
  if (answer.ok()) return {};
  return base::fail("{} lists its models, but refuses a request: {}", url.authority(),
                    answer.error().message);
}

base::Status wait_until_answers(const http::Url& url, const std::string& api_key,
                                std::chrono::seconds limit,
                                const std::function<std::optional<std::string>()>& ended) {
  measure::Endpoint endpoint(url, api_key);
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (true) {
    if (runtime::interrupted()) return base::fail("{}", runtime::kInterrupted);
    if (const auto end = ended()) return base::fail("ended before it answered: it {}", *end);
    const base::Result<std::string> model = endpoint.first_model();
    if (model.ok()) {
      const base::Status answer = ask(endpoint, *model);
      if (answer.ok()) return {};
      const auto until = std::chrono::steady_clock::now() + kEndAfterRefusal;
      while (std::chrono::steady_clock::now() < until) {
        if (const auto end = ended()) {
          return base::fail("lists its models, fails at the first request ({}) and {}",
                            answer.error().message, *end);
        }
      }
      return base::fail("lists its models, but refuses a request: {}", answer.error().message);
    }
    if (refuses_key(model.error().message)) {
      return base::fail("{} refuses the key, or asks for one: {}", url.authority(),
                        model.error().message);
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      return base::fail("did not answer a request within {} s (--start-timeout): {}", limit.count(),
                        model.error().message);
    }
  }
}

}  // namespace fourfold::adapter
