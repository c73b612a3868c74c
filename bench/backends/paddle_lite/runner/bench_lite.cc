// bench_lite, a runner of bench: times a Paddle Lite model (.nb) and prints every sample, as one line of JSON.
//
//   bench_lite --model=FILE --input-shape=1,3,224,224 [--threads=1] [--power-mode=0] [--warmup=10] [--iterations=50]
//              [--input=FILE] [--output=FILE]
//   bench_lite --version
//
// Upstream's benchmark_bin prints a minimum, a maximum and a mean. This prints the latency of each inference, the
// threads there were and the CPU each last ran on. Input and output files are raw float32 of this machine, several
// tensors one after the other (shapes joined by colons); without an input file every element is 1.
//
// Exit codes: 0 good, 2 wrong arguments, 3 the model can't be loaded, 4 the input can't be read, 5 an inference failed,
// 6 the output can't be read or written. Paddle Lite is often built without exceptions and then aborts (134) instead.
// How to build it: CMakeLists.txt beside this file.
#include <dirent.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "paddle_api.h"
#ifdef BENCH_LITE_STATIC  // a static library drops operators and kernels that nothing names
#include "paddle_use_kernels.h"
#include "paddle_use_ops.h"
#endif

namespace {

namespace lite = paddle::lite_api;
typedef std::chrono::steady_clock Clock;
typedef std::vector<int64_t> Numbers;

const int kSchema = 1;
const char kMark[] = "bench_lite, a runner of bench";
const char kUsage[] = "give --model=FILE --input-shape=N,C,H,W and, if wanted, --threads --power-mode --warmup "
                      "--iterations --input --output";

enum Exit { kUsageError = 2, kModelError = 3, kInputError = 4, kRunError = 5, kOutputError = 6 };

struct Failure {
  Exit code;
  std::string message;
};

struct Options {
  std::map<std::string, std::string> text = {{"model", ""}, {"input-shape", ""}, {"input", ""}, {"output", ""}};
  std::map<std::string, int64_t> number = {{"threads", 1}, {"power-mode", 0}, {"warmup", 10}, {"iterations", 50}};
};

struct Result {
  int64_t load_ns, first_ns;
  Numbers warmup_ns, samples_ns;
};

int64_t ToNumber(const std::string& text, const std::string& what) {
  if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos)
    throw Failure{kUsageError, what + " is a whole number, not '" + text + "'"};
  return std::atoll(text.c_str());
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (char c : text)
    if (c == separator) parts.emplace_back();
    else parts.back() += c;
  return parts;
}

std::vector<Numbers> ToShapes(const std::string& text) {
  std::vector<Numbers> shapes;
  for (const std::string& one : Split(text, ':')) {
    shapes.emplace_back();
    for (const std::string& size : Split(one, ',')) {
      shapes.back().push_back(ToNumber(size, "a dimension"));
      if (shapes.back().back() < 1) throw Failure{kUsageError, "a dimension is 1 at least, not " + size};
    }
  }
  return shapes;
}

int64_t Elements(const Numbers& shape) {
  int64_t product = 1;
  for (int64_t size : shape) product *= size;
  return product;
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    const std::string name = argument.compare(0, 2, "--") == 0 ? argument.substr(2, equals - 2) : "";
    const std::string value = equals == std::string::npos ? "" : argument.substr(equals + 1);
    if (options.number.count(name)) options.number[name] = ToNumber(value, "--" + name);
    else if (options.text.count(name) && !value.empty()) options.text[name] = value;
    else throw Failure{kUsageError, "'" + argument + "' is not understood; " + kUsage};
  }
  if (options.text["model"].empty() || options.text["input-shape"].empty()) throw Failure{kUsageError, kUsage};
  if (options.number["threads"] < 1 || options.number["iterations"] < 1 || options.number["power-mode"] > 5)
    throw Failure{kUsageError, "there must be a thread and an iteration at least, and a power mode from 0 to 5"};
  return options;
}

std::shared_ptr<lite::PaddlePredictor> Load(const Options& options) {
  const std::string& model = options.text.at("model");
  if (!std::ifstream(model.c_str()).good())  // Paddle Lite would abort
    throw Failure{kModelError, "cannot read the model " + model};
  lite::MobileConfig config;
  config.set_model_from_file(model);
  config.set_threads(static_cast<int>(options.number.at("threads")));
  config.set_power_mode(static_cast<lite::PowerMode>(options.number.at("power-mode")));
  std::shared_ptr<lite::PaddlePredictor> predictor = lite::CreatePaddlePredictor<lite::MobileConfig>(config);
  if (!predictor) throw Failure{kModelError, "Paddle Lite does not load " + model};
  return predictor;
}

void Feed(lite::PaddlePredictor* predictor, const std::vector<Numbers>& shapes, const std::string& path) {
  if (shapes.size() != predictor->GetInputNames().size())
    throw Failure{kInputError, "the model has another number of inputs than --input-shape"};
  std::ifstream file;
  if (!path.empty()) file.open(path.c_str(), std::ios::binary);
  for (size_t i = 0; i < shapes.size(); ++i) {
    std::unique_ptr<lite::Tensor> input = predictor->GetInput(static_cast<int>(i));
    input->Resize(shapes[i]);
    std::vector<float> values(static_cast<size_t>(Elements(shapes[i])), 1.f);
    if (!path.empty())
      file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
    if (!path.empty() && !file) throw Failure{kInputError, "cannot read enough float32 from " + path};
    std::memcpy(input->mutable_data<float>(), values.data(), values.size() * sizeof(float));
  }
  if (!path.empty() && file.peek() != std::ifstream::traits_type::eof())
    throw Failure{kInputError, "there is more in " + path + " than the input takes"};
}

int64_t TimeOnce(lite::PaddlePredictor* predictor) {
  const Clock::time_point start = Clock::now();
  predictor->Run();
  const Clock::time_point end = Clock::now();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(end - start).count();
}

Numbers TimeMany(lite::PaddlePredictor* predictor, int64_t times) {
  Numbers taken(static_cast<size_t>(times));
  for (int64_t& one : taken) one = TimeOnce(predictor);
  return taken;
}

std::string Quoted(const std::string& text) {
  std::ostringstream out;
  out << '"';
  for (unsigned char c : text) {
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
    if (c < 0x20 || c == '"' || c == '\\') out << escaped;
    else out << c;
  }
  out << '"';
  return out.str();
}

std::string Listed(const Numbers& numbers) {
  std::ostringstream out;
  for (size_t i = 0; i < numbers.size(); ++i) out << (i ? "," : "") << numbers[i];
  return "[" + out.str() + "]";
}

std::string Finite(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return std::isfinite(value) ? text : "null";
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path.c_str());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// What one thread of this process is (man 5 proc: stat, status), or "" if it ended meanwhile.
std::string Task(const std::string& id) {
  const std::string folder = "/proc/self/task/" + id;
  const std::string stat = ReadAll(folder + "/stat"), status = ReadAll(folder + "/status");
  const size_t name_end = stat.rfind(')');  // a name may hold blanks and brackets
  const std::string key = "\nCpus_allowed_list:\t";
  const size_t allowed = status.find(key);
  if (name_end == std::string::npos || allowed == std::string::npos) return "";
  std::istringstream words(stat.substr(name_end + 1));
  const std::istream_iterator<std::string> word(words), end;
  const std::vector<std::string> fields(word, end);
  if (fields.size() < 37) return "";  // the first is field 3: utime and stime are 14 and 15, processor is 39
  const int64_t ticks = std::atoll(fields[11].c_str()) + std::atoll(fields[12].c_str());
  const size_t from = allowed + key.size();
  std::ostringstream out;
  out << "{\"id\":" << id << ",\"cpu\":" << fields[36] << ",\"allowed\":"
      << Quoted(status.substr(from, status.find('\n', from) - from)) << ",\"ticks\":" << ticks << "}";
  return out.str();
}

std::string Tasks() {
  std::string all;
  DIR* folder = opendir("/proc/self/task");
  while (const dirent* entry = folder ? readdir(folder) : nullptr) {
    const std::string task = entry->d_name[0] == '.' ? "" : Task(entry->d_name);
    if (!task.empty()) all += (all.empty() ? "" : ",") + task;
  }
  if (folder) closedir(folder);
  return "[" + all + "]";
}

std::string Statistics(const lite::Tensor& output) {
  const Numbers shape = output.shape();
  const int64_t elements = Elements(shape);
  const float* data = output.data<float>();
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < elements; ++i) sum += data[i];
  const double mean = sum / static_cast<double>(elements);
  for (int64_t i = 0; i < elements; ++i) squares += (data[i] - mean) * (data[i] - mean);
  std::ostringstream out;
  out << "{\"shape\":" << Listed(shape) << ",\"elements\":" << elements << ",\"mean\":" << Finite(mean)
      << ",\"deviation\":" << Finite(std::sqrt(squares / static_cast<double>(elements))) << "}";
  return out.str();
}

std::string Outputs(lite::PaddlePredictor* predictor, const std::string& path) {
  std::ofstream file;
  if (!path.empty()) file.open(path.c_str(), std::ios::binary | std::ios::trunc);
  std::string all;
  for (size_t i = 0; i < predictor->GetOutputNames().size(); ++i) {
    std::unique_ptr<const lite::Tensor> output = predictor->GetOutput(static_cast<int>(i));
    if (output->precision() != lite::PrecisionType::kFloat)
      throw Failure{kOutputError, "an output is not of float32"};
    all += (all.empty() ? "" : ",") + Statistics(*output);
    const std::streamsize bytes = static_cast<std::streamsize>(Elements(output->shape()) * sizeof(float));
    if (!path.empty()) file.write(reinterpret_cast<const char*>(output->data<float>()), bytes);
  }
  if (!path.empty() && !file.flush()) throw Failure{kOutputError, "cannot write " + path};
  return "[" + all + "]";
}

// CRC-32 as in zlib and IEEE 802.3, so that whoever reads the line knows that it is whole.
uint32_t Crc32(const std::string& text) {
  uint32_t crc = 0xffffffffu;
  for (unsigned char c : text) {
    crc ^= c;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320u : 0);
  }
  return ~crc;
}

void Print(const Options& options, const Result& result, const std::string& tasks, lite::PaddlePredictor* predictor) {
  std::ostringstream out;
  out << "{\"bench_lite\":" << kSchema << ",\"lite_version\":" << Quoted(predictor->GetVersion())
      << ",\"model\":" << Quoted(options.text.at("model"))
      << ",\"input_shape\":" << Quoted(options.text.at("input-shape"))
      << ",\"threads\":" << options.number.at("threads") << ",\"power_mode\":" << options.number.at("power-mode")
      << ",\"warmup\":" << options.number.at("warmup") << ",\"iterations\":" << options.number.at("iterations")
      << ",\"load_ns\":" << result.load_ns << ",\"first_ns\":" << result.first_ns
      << ",\"warmup_ns\":" << Listed(result.warmup_ns) << ",\"samples_ns\":" << Listed(result.samples_ns)
      << ",\"ticks_per_s\":" << sysconf(_SC_CLK_TCK) << ",\"tasks\":" << tasks
      << ",\"outputs\":" << Outputs(predictor, options.text.at("output"));
  std::printf("%s,\"crc32\":\"%08x\"}\n", out.str().c_str(), static_cast<unsigned>(Crc32(out.str())));
  if (std::fflush(stdout) != 0) throw Failure{kOutputError, "cannot write to standard output"};
}

void Measure(const Options& options) {
  const std::vector<Numbers> shapes = ToShapes(options.text.at("input-shape"));
  Exit stage = kModelError;
  try {
    Result result;
    const Clock::time_point start = Clock::now();
    std::shared_ptr<lite::PaddlePredictor> predictor = Load(options);
    result.load_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
    stage = kInputError;
    Feed(predictor.get(), shapes, options.text.at("input"));
    stage = kRunError;
    result.first_ns = TimeOnce(predictor.get());
    result.warmup_ns = TimeMany(predictor.get(), options.number.at("warmup"));
    result.samples_ns = TimeMany(predictor.get(), options.number.at("iterations"));
    stage = kOutputError;
    Print(options, result, Tasks(), predictor.get());
  } catch (const std::exception& error) {
    throw Failure{stage, std::string("Paddle Lite failed: ") + error.what()};
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 2 && std::strcmp(argv[1], "--version") == 0)
      std::printf("bench_lite version %d\n", kSchema);
    else
      Measure(Parse(argc, argv));
    return 0;
  } catch (const Failure& failure) {
    std::fprintf(stderr, "%s: %s\n", kMark, failure.message.c_str());
    return failure.code;
  }
}
