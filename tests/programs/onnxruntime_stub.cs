// What InspectPicture.cs uses of the package Microsoft.ML.OnnxRuntime, with the package's own signatures. The graph is
// run by another process (stub_session.py), so that a C# compiler without .NET's packages can compile and run the
// program. It does not show that the package itself does as its documentation says.
using System;
using System.Collections;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.Linq;

namespace Microsoft.ML.OnnxRuntime.Tensors {
    public abstract class Tensor<T> {
        public T[] Values;
        public int[] Shape;
    }

    public class DenseTensor<T> : Tensor<T> {
        public DenseTensor(T[] memory, int[] dimensions) { Values = memory; Shape = dimensions; }
    }
}

namespace Microsoft.ML.OnnxRuntime {
    using Tensors;

    public class NamedOnnxValue {
        public string Name { get; set; }
        public object Value { get; set; }
        public static NamedOnnxValue CreateFromTensor<T>(string name, Tensor<T> value) {
            return new NamedOnnxValue { Name = name, Value = value };
        }
        public IEnumerable<T> AsEnumerable<T>() { return (IEnumerable<T>)Value; }
    }

    public class DisposableNamedOnnxValue : NamedOnnxValue { }

    public interface IDisposableReadOnlyCollection<T> : IReadOnlyCollection<T>, IDisposable { }

    class Outputs : List<DisposableNamedOnnxValue>, IDisposableReadOnlyCollection<DisposableNamedOnnxValue> {
        public void Dispose() { }
    }

    public class InferenceSession {
        readonly string path;
        public InferenceSession(string modelPath) { path = modelPath; }

        public IDisposableReadOnlyCollection<DisposableNamedOnnxValue> Run(IReadOnlyCollection<NamedOnnxValue> inputs) {
            var x = (Tensor<byte>)inputs.Single().Value;
            var start = new ProcessStartInfo(Environment.GetEnvironmentVariable("STUB_PYTHON")) {
                Arguments = Environment.GetEnvironmentVariable("STUB_SESSION") + " " + path + " " + string.Join(" ", x.Shape),
                RedirectStandardInput = true, RedirectStandardOutput = true, UseShellExecute = false
            };
            using (var process = Process.Start(start)) {
                process.StandardInput.BaseStream.Write(x.Values, 0, x.Values.Length);
                process.StandardInput.Close();
                var found = new Outputs();
                foreach (string line in process.StandardOutput.ReadToEnd().Trim().Split('\n')) {
                    string[] words = line.Trim().Split(' ');
                    float[] values = words.Skip(1).Select(v => float.Parse(v, CultureInfo.InvariantCulture)).ToArray();
                    found.Add(new DisposableNamedOnnxValue { Name = words[0], Value = values });
                }
                return found;
            }
        }
    }
}
