// Judges PGM and PPM pictures as the model was exported. In the exported folder: inspect_picture PICTURE... | --check
//@onnx
// g++ -std=c++17 -O2 inspect_picture.cpp -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o inspect_picture
#include <onnxruntime_cxx_api.h>
//@end
//@openvino
// g++ -std=c++17 -O2 inspect_picture.cpp -I OPENVINO/include -L OPENVINO/libs -lopenvino -o inspect_picture
#include <openvino/openvino.hpp>
//@end
#include <algorithm>
#include <filesystem>
#include <iostream>
#include "prepare.hpp"
static string json;  // pipeline.json
static string after(const string& key, size_t& at) {  // what stands behind the next "key": from `at` on
  if ((at = json.find("\"" + key + "\":", at)) == string::npos) throw std::runtime_error("pipeline.json: no " + key);
  size_t from = json.find_first_not_of(' ', at += key.size() + 3);
  return json.substr(from, json.find_first_of(",\n}", from) - from);
}
static double number(const string& key) { size_t at = 0; return std::stod(after(key, at)); }
static std::pair<double, string> judge(const string& path) {  // score, and label as JSON has it
  int64_t H = int64_t(number("height")), W = int64_t(number("width"));
  std::vector<uint8_t> x(size_t(H) * W * 3);
  Picture picture = read(path);
  bool deep = picture.most > 255;
  double black = deep ? number("uint16_black") : 0, white = deep ? number("uint16_white") : 255;
  double outside = number("outside_share"), dark = number("dark_share") * number("darkest");
  prepare(picture, {black, white, outside, dark}, int(H), int(W), x);
  size_t at = 0;
  if (after("roi", at) != "null") {
    std::ifstream roi("roi.bin", std::ios::binary);
    for (size_t i = 0; i < x.size(); i += 3) if (roi.get() != 1) std::fill_n(&x[i], 3, uint8_t(127));
  }
  //@onnx
  static Ort::Env env;
  static Ort::Session session(env, std::filesystem::path("graph.onnx").c_str(), Ort::SessionOptions{});
  const char *in[] = {"image"}, *names[] = {"score", "votes", "strangeness"};
  int64_t shape[] = {1, H, W, 3};
  Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto image = Ort::Value::CreateTensor<uint8_t>(memory, x.data(), x.size(), shape, 4);
  auto got = session.Run(Ort::RunOptions{}, in, &image, 1, names, session.GetOutputCount() > 2 ? 3 : 1);
  auto values = [&](size_t i) { return got[i].GetTensorData<float>(); };
  size_t votes = got.size() > 1 ? got[1].GetTensorTypeAndShapeInfo().GetElementCount() : 0;
  //@end
  //@openvino
  static auto model = ov::Core().compile_model("graph.xml", "CPU", ov::hint::inference_precision(ov::element::f32));
  auto run = model.create_infer_request();
  run.set_input_tensor(ov::Tensor(ov::element::u8, {1, size_t(H), size_t(W), 3}, x.data()));
  run.infer();
  const char* names[] = {"score", "votes", "strangeness"};
  auto values = [&](size_t i) { return run.get_tensor(names[i]).data<float>(); };
  size_t votes = model.outputs().size() > 2 ? run.get_tensor("votes").get_size() : 0;
  //@end
  at = json.find("\"decisions\":");
  auto best = votes ? std::max_element(values(1), values(1) + votes) - values(1) : 0;
  for (; best; best--) after("unknown_above", at);
  string threshold = after("threshold", at), unknown = after("unknown_above", at);
  if (threshold != "null" && *values(0) > std::stod(threshold)) return {*values(0), "\"anomalous\""};
  bool strange = votes && unknown != "null" && *values(2) > std::stod(unknown);
  return {*values(0), strange ? "\"unknown\"" : threshold == "null" ? "null" : "\"good\""};
}
int main(int argc, char** argv) try {
  std::ifstream file("pipeline.json", std::ios::binary);
  json.assign(std::istreambuf_iterator<char>(file), {});
  bool check = argc == 2 && string(argv[1]) == "--check", good = true;
  size_t at = json.find("\"golden\":");
  for (int i = 1; check ? json.find("\"pnm\":", at) != string::npos : i < argc; i++) {
    string path = check ? after("pnm", at) : argv[i];
    auto [score, label] = judge(check ? path.substr(1, path.size() - 2) : path);
    printf("{\"pred_score\": %.9g, \"pred_label\": %s}\n", score, label.c_str());
    if (!check) continue;
    double away = std::abs(score - std::stod(after("score", at)));
    good &= away <= std::stod(after("score_tolerance", at)) && label == after("label", at);
  }
  return good ? 0 : 1;
} catch (const std::exception& error) { std::cerr << "error: " << error.what() << '\n'; return 1; }
