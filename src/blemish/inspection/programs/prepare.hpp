// A picture as the graph takes it: reads binary PGM and PPM of 8 or 16 bits. With OpenCV, imread, resize (INTER_AREA
// where an axis shrinks, then INTER_LINEAR where one grows) and cvtColor stand in for read and along.
#include <cmath>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>
using std::max, std::min, std::string;
using Plane = std::vector<double>;
struct Picture { int w = 0, h = 0, most = 0; std::vector<Plane> planes; };  // one plane, or red, green, blue
struct Levels { double black, white, outside_share, dark; };  // of pipeline.json, for the type of the picture

inline Picture read(const string& path) {
  std::ifstream file(path, std::ios::binary);
  string kind;
  Picture p;
  file >> kind >> p.w >> p.h >> p.most;
  file.get();
  if (!file || (kind != "P5" && kind != "P6") || p.most < 255) throw std::runtime_error(path + ": no PGM or PPM");
  p.planes.assign(kind == "P6" ? 3 : 1, Plane(size_t(p.w) * p.h));
  for (size_t i = 0; i < size_t(p.w) * p.h; i++)
    for (Plane& plane : p.planes)
      for (int bytes = p.most > 255 ? 2 : 1; bytes; bytes--) plane[i] = 256 * plane[i] + file.get();
  if (!file) throw std::runtime_error(path + ": is cut short");
  return p;
}

inline Plane along(const Plane& in, int n, int m, int to) {  // (n, m) -> (m, to): resized along n, and turned
  Plane out(size_t(m) * to);
  double step = double(n) / to;
  for (int i = 0; i < to; i++) {  // linear where the axis grows, else means over areas
    double from = i * step, end = from + step, x = min(max((i + 0.5) * step - 0.5, 0.0), n - 1.0);
    for (int k = int(to > n ? x : from); k < n && k < (to > n ? x + 1 : end); k++) {
      double weight = to > n ? 1 - std::abs(x - k) : (min(end, k + 1.0) - max(from, double(k))) / step;
      for (int j = 0; j < m; j++) out[size_t(j) * to + i] += weight * in[size_t(k) * m + j];
    }
  }
  return out;
}

inline void prepare(const Picture& p, const Levels& is, int H, int W, std::vector<uint8_t>& out) {  // (H, W, 3)
  double span = is.white - is.black, low = 1e9, high = 0, outside = 0, all = double(p.w) * p.h * p.planes.size();
  for (const Plane& plane : p.planes) for (double v : plane)
    low = min(low, v), high = max(high, v), outside += v < is.black - 0.02 * span || v > is.white + 0.02 * span;
  if (low < is.black - span || high > is.white + span || outside > is.outside_share * all)
    throw std::runtime_error("values are outside of the range that good pictures have");
  if (min(max(255 * (high - is.black) / span, 0.0), 255.0) < is.dark)
    throw std::runtime_error("is far darker than every good picture");
  for (size_t c = 0; c < 3; c++) {
    Plane x = p.planes[c % p.planes.size()];
    int h = min(p.h, H), w = min(p.w, W);
    for (double& v : x) v = nearbyint(min(max((v - is.black) * 255 / span, 0.0), 255.0));
    x = along(along(x, p.h, p.w, h), p.w, h, w);
    for (double& v : x) v = p.h == 2 * H && p.w == 2 * W ? floor(v + 0.5) : nearbyint(v);  // as OpenCV rounds
    x = along(along(x, h, w, H), w, H, W);
    for (size_t i = 0; i < x.size(); i++) out[3 * i + c] = uint8_t(nearbyint(x[i]));
  }
}
