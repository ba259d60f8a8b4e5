// A picture as the graph takes it: reads binary PGM and PPM of 8 or 16 bits.
using System;
using System.IO;
using System.Linq;

class Picture {
    public int W, H, Most;
    public double[][] Planes;  // one, or red, green, blue

    public static Picture Read(string path) {
        byte[] data = File.ReadAllBytes(path);
        var head = new string[4];
        int at = 0;
        for (int i = 0; i < 4; i++, at++)
            for (head[i] = ""; at < data.Length && data[at] > ' '; at++) head[i] += (char)data[at];
        var p = new Picture();
        if ((head[0] != "P5" && head[0] != "P6") || !int.TryParse(head[1], out p.W) || !int.TryParse(head[2], out p.H)
            || !int.TryParse(head[3], out p.Most) || p.Most < 255) throw new InvalidDataException("no PGM or PPM");
        int planes = head[0] == "P6" ? 3 : 1, bytes = p.Most > 255 ? 2 : 1;
        if (data.Length - at < (long)p.W * p.H * planes * bytes) throw new InvalidDataException("is cut short");
        p.Planes = Enumerable.Range(0, planes).Select(_ => new double[p.W * p.H]).ToArray();
        for (int i = 0; i < p.W * p.H; i++)
            foreach (double[] plane in p.Planes)
                for (int b = 0; b < bytes; b++) plane[i] = 256 * plane[i] + data[at++];
        return p;
    }

    static double[] Along(double[] x, int n, int m, int to) {  // (n, m) -> (m, to): resized along n, and turned
        var result = new double[m * to];
        double step = (double)n / to;
        for (int i = 0; i < to; i++) {  // linear where the axis grows, else means over areas
            double from = i * step, end = from + step, mid = Math.Min(Math.Max((i + 0.5) * step - 0.5, 0), n - 1);
            for (int k = (int)(to > n ? mid : from); k < n && k < (to > n ? mid + 1 : end); k++) {
                double weight = to > n ? 1 - Math.Abs(mid - k) : (Math.Min(end, k + 1) - Math.Max(from, k)) / step;
                for (int j = 0; j < m; j++) result[j * to + i] += weight * x[k * m + j];
            }
        }
        return result;
    }

    public byte[] Prepared(int height, int width, double black, double white, double outside, double darkest) {
        double span = white - black, low = Planes.Min(x => x.Min()), high = Planes.Max(x => x.Max());
        Func<double, bool> beyond = v => v < black - 0.02 * span || v > white + 0.02 * span;
        Func<double, double> limited = v => Math.Min(Math.Max(255 * (v - black) / span, 0), 255);
        if (low < black - span || high > white + span || Planes.Average(x => x.Count(beyond)) > outside * W * H)
            throw new InvalidDataException("values are outside of the range that good pictures have");
        if (limited(high) < darkest) throw new InvalidDataException("is far darker than every good picture");
        int h = Math.Min(H, height), w = Math.Min(W, width);
        var bytes = new byte[height * width * 3];
        for (int c = 0; c < 3; c++) {
            double[] x = Planes[c % Planes.Length].Select(v => Math.Round(limited(v))).ToArray();
            x = Along(Along(x, H, W, h), W, h, w);
            x = x.Select(v => H == 2 * h && W == 2 * w ? Math.Floor(v + 0.5) : Math.Round(v)).ToArray();  // as OpenCV
            x = Along(Along(x, h, w, height), w, height, width);
            for (int i = 0; i < x.Length; i++) bytes[3 * i + c] = (byte)Math.Round(x[i]);
        }
        return bytes;
    }
}
