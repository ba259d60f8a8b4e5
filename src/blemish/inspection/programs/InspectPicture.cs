// Judges PGM and PPM pictures as the model was exported. In the exported folder: InspectPicture PICTURE... | --check
// A console project of these two files with the package Microsoft.ML.OnnxRuntime.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

static class InspectPicture {
    static readonly string Json = File.ReadAllText("pipeline.json");
    static readonly InferenceSession Session = new InferenceSession("graph.onnx");
    static string After(string key, ref int at) {  // what stands behind the next "key": from `at` on
        int found = Json.IndexOf("\"" + key + "\":", at, StringComparison.Ordinal);
        if (found < 0) throw new InvalidDataException("pipeline.json: no " + key);
        at = found + key.Length + 3;
        return Json.Substring(at, Json.IndexOfAny(new[] {',', '\n', '}'}, at) - at).Trim();
    }

    static double Parsed(string text) => double.Parse(text, CultureInfo.InvariantCulture);
    static double Number(string key) { int at = 0; return Parsed(After(key, ref at)); }
    static (double, string) Judge(string path) {  // score, and label as JSON has it
        int height = (int)Number("height"), width = (int)Number("width"), at = 0;
        Picture picture = Picture.Read(path);
        bool deep = picture.Most > 255;
        double black = deep ? Number("uint16_black") : 0, white = deep ? Number("uint16_white") : 255;
        double outside = Number("outside_share"), dark = Number("dark_share") * Number("darkest");
        byte[] x = picture.Prepared(height, width, black, white, outside, dark);
        byte[] roi = After("roi", ref at) == "null" ? null : File.ReadAllBytes("roi.bin");
        for (int i = 0; roi != null && i < x.Length; i++) if (roi[i / 3] == 0) x[i] = 127;
        var image = NamedOnnxValue.CreateFromTensor("image", new DenseTensor<byte>(x, new[] {1, height, width, 3}));
        using (var run = Session.Run(new[] {image})) {
            Dictionary<string, float[]> got = run.ToDictionary(v => v.Name, v => v.AsEnumerable<float>().ToArray());
            int best = got.ContainsKey("votes") ? Array.IndexOf(got["votes"], got["votes"].Max()) : 0;
            at = Json.IndexOf("\"decisions\":", StringComparison.Ordinal);
            for (int k = 0; k < best; k++) After("unknown_above", ref at);
            string threshold = After("threshold", ref at), unknown = After("unknown_above", ref at);
            double score = got["score"][0], strangeness = got.ContainsKey("votes") ? got["strangeness"][0] : 0;
            bool strange = unknown != "null" && strangeness > Parsed(unknown);
            if (threshold != "null" && score > Parsed(threshold)) return (score, "\"anomalous\"");
            return (score, strange ? "\"unknown\"" : threshold == "null" ? "null" : "\"good\"");
        }
    }

    static int Main(string[] paths) {
        bool check = paths.Length == 1 && paths[0] == "--check", good = true;
        int at = Json.IndexOf("\"golden\":", StringComparison.Ordinal);
        for (int i = 0; check ? Json.IndexOf("\"pnm\":", at, StringComparison.Ordinal) >= 0 : i < paths.Length; i++) {
            (double score, string label) = Judge(check ? After("pnm", ref at).Trim('"') : paths[i]);
            Console.WriteLine(FormattableString.Invariant($"{{\"pred_score\": {score:R}, \"pred_label\": {label}}}"));
            if (!check) continue;
            double wanted = Parsed(After("score", ref at)), tolerance = Parsed(After("score_tolerance", ref at));
            good &= Math.Abs(score - wanted) <= tolerance && label == After("label", ref at);
        }
        return good ? 0 : 1;
    }
}
