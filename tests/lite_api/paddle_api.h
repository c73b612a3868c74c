// Our own declarations of what bench_lite uses of Paddle Lite's C++ API, in the order and sizes of 2.13, so that it can
// be compiled and run where no Paddle Lite library for C++ is: against `fake.cc`, or inside a Python that has loaded
// paddlelite's lite.so. Not for building what goes on a phone: that takes the header of the library itself.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace paddle {
namespace lite_api {

enum class TargetType : int { kHost = 1 };
enum class PrecisionType : int { kFloat = 1, kInt64 = 7 };
enum class LiteModelType { kProtobuf = 0 };
typedef enum { LITE_POWER_HIGH = 0, LITE_POWER_NO_BIND = 3 } PowerMode;

struct Tensor {
  explicit Tensor(void* raw);
  void Resize(const std::vector<int64_t>& shape);
  template <typename T>
  const T* data() const;
  template <typename T>
  T* mutable_data(TargetType type = TargetType::kHost) const;
  std::vector<int64_t> shape() const;
  PrecisionType precision() const;

 private:
  void* raw_;
};

class PaddlePredictor {
 public:
  virtual std::unique_ptr<Tensor> GetInput(int i) = 0;
  virtual std::unique_ptr<const Tensor> GetOutput(int i) const = 0;
  virtual void Run() = 0;
  virtual std::shared_ptr<PaddlePredictor> Clone() = 0;
  virtual std::shared_ptr<PaddlePredictor> Clone(const std::vector<std::string>& names) = 0;
  virtual std::string GetVersion() const = 0;
  virtual std::vector<std::string> GetInputNames() = 0;
  virtual std::vector<std::string> GetOutputNames() = 0;
  virtual ~PaddlePredictor() = default;  // never called here: a shared_ptr calls that of the library
};

class ConfigBase {
 protected:  // the library's, of no use here; private, clang would warn of that
  alignas(8) unsigned char members_[528];

 public:
  explicit ConfigBase(PowerMode mode = LITE_POWER_NO_BIND, int threads = 1);
  ~ConfigBase();
  void set_threads(int threads);
  void set_power_mode(PowerMode mode);
};

class MobileConfig : public ConfigBase {
 protected:
  bool from_memory_ = false;
  int precision_mode_ = 0;
  std::string model_file_;
  const char* buffer_ = nullptr;
  size_t buffer_size_ = 0;
  std::string model_buffer_, param_buffer_;

 public:
  void set_model_from_file(const std::string& path);
  const std::string& lite_model_file() const { return model_file_; }
};

template <typename Config>
std::shared_ptr<PaddlePredictor> CreatePaddlePredictor(const Config&);

}  // namespace lite_api
}  // namespace paddle
