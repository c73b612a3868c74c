// A Paddle Lite that computes nothing but sums, for tests of bench_lite. The words of the "model" file say how many
// outputs it has and how it misbehaves: output K is [s, 2 s, 3 s] + K, with s the sum of all inputs' elements.
//   outputs=N inputs=N throw_at_load null throw_at_run int64 nan
// It has as many threads as are set, and each run sleeps a millisecond.
#include <unistd.h>

#include <cmath>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "paddle_api.h"

namespace paddle {
namespace lite_api {
namespace {

struct Raw {
  std::vector<int64_t> shape;
  std::vector<float> values;
  PrecisionType precision;
};

int threads_set = 1;
int mode_set = LITE_POWER_NO_BIND;

class Fake : public PaddlePredictor {
 public:
  explicit Fake(const std::string& path) : inputs_(1), outputs_(1) {
    std::ifstream file(path.c_str());
    for (std::string word; file >> word;) Learn(word);
    for (int i = 1; i < threads_set; ++i) threads_.emplace_back([this] { Wait(); });
  }

  ~Fake() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      done_ = true;
    }
    ended_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  std::unique_ptr<Tensor> GetInput(int i) override {
    return std::unique_ptr<Tensor>(new Tensor(&inputs_.at(static_cast<size_t>(i))));
  }

  std::unique_ptr<const Tensor> GetOutput(int i) const override {
    const Raw* raw = &outputs_.at(static_cast<size_t>(i));
    return std::unique_ptr<const Tensor>(new Tensor(const_cast<Raw*>(raw)));
  }

  void Run() override {
    if (throw_at_run_) throw std::runtime_error("a kernel gave up");
    float sum = 0;
    for (const Raw& input : inputs_)
      for (float value : input.values) sum += value;
    if (nan_) sum = std::nanf("");
    for (size_t k = 0; k < outputs_.size(); ++k) {
      const float shift = static_cast<float>(k);
      outputs_[k] = Raw{{1, 3}, {sum + shift, 2 * sum + shift, 3 * sum + shift}, precision_};
    }
    usleep(1000);
  }

  std::shared_ptr<PaddlePredictor> Clone() override { return nullptr; }
  std::shared_ptr<PaddlePredictor> Clone(const std::vector<std::string>&) override { return nullptr; }
  std::string GetVersion() const override { return "fake \"" + std::to_string(mode_set) + "\""; }
  std::vector<std::string> GetInputNames() override { return std::vector<std::string>(inputs_.size(), "x"); }
  std::vector<std::string> GetOutputNames() override { return std::vector<std::string>(outputs_.size(), "y"); }

 private:
  void Learn(const std::string& word) {
    if (word == "throw_at_load") throw std::runtime_error("the model is damaged");
    if (word == "throw_at_run") throw_at_run_ = true;
    if (word == "int64") precision_ = PrecisionType::kInt64;
    if (word == "nan") nan_ = true;
    if (word.compare(0, 8, "outputs=") == 0) outputs_.resize(std::stoul(word.substr(8)));
    if (word.compare(0, 7, "inputs=") == 0) inputs_.resize(std::stoul(word.substr(7)));
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    ended_.wait(lock, [this] { return done_; });
  }

  std::vector<Raw> inputs_, outputs_;
  PrecisionType precision_ = PrecisionType::kFloat;
  bool throw_at_run_ = false, nan_ = false, done_ = false;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::vector<std::thread> threads_;
};

Raw* Of(void* raw) { return static_cast<Raw*>(raw); }

}  // namespace

Tensor::Tensor(void* raw) : raw_(raw) {}
void Tensor::Resize(const std::vector<int64_t>& shape) { Of(raw_)->shape = shape; }
std::vector<int64_t> Tensor::shape() const { return Of(raw_)->shape; }
PrecisionType Tensor::precision() const { return Of(raw_)->precision; }

template <>
const float* Tensor::data<float>() const {
  return Of(raw_)->values.data();
}

template <>
float* Tensor::mutable_data<float>(TargetType) const {
  size_t elements = 1;
  for (int64_t size : Of(raw_)->shape) elements *= static_cast<size_t>(size);
  Of(raw_)->values.resize(elements);
  return Of(raw_)->values.data();
}

ConfigBase::ConfigBase(PowerMode mode, int threads) : members_() {
  set_threads(threads);
  set_power_mode(mode);
}
ConfigBase::~ConfigBase() {}
void ConfigBase::set_threads(int threads) { threads_set = threads; }
void ConfigBase::set_power_mode(PowerMode mode) { mode_set = mode; }
void MobileConfig::set_model_from_file(const std::string& path) { model_file_ = path; }

template <>
std::shared_ptr<PaddlePredictor> CreatePaddlePredictor(const MobileConfig& config) {
  std::string word;
  std::ifstream(config.lite_model_file().c_str()) >> word;
  if (word == "null") return nullptr;
  return std::make_shared<Fake>(config.lite_model_file());
}

}  // namespace lite_api
}  // namespace paddle
