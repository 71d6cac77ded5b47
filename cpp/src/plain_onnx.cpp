#include "plain_onnx.hpp"

#include "protobuf.hpp"
#include "tensor.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

namespace u2slim {
namespace {

std::string text_of(Bytes message, std::uint64_t number) {
    std::string text;
    each_field(message, [&](const Field& field) {
        if (field.is(number, nested)) text = field.bytes.text();
    });
    return text;
}

struct Step {  // a node
    Bytes message;
    std::string kind, output;
    std::vector<std::string> inputs;
    std::map<std::string, std::int64_t> numbers;  // of its attributes
    std::vector<std::int64_t> shape;              // likewise

    std::string input(std::size_t at) const { return at < inputs.size() ? inputs[at] : ""; }
};

Step read_step(Bytes message) {
    Step step{message, text_of(message, 4), "", {}, {}, {}};
    bool has_output = false;
    each_field(message, [&](const Field& field) {
        if (field.is(1, nested)) step.inputs.push_back(field.bytes.text());
        if (field.is(2, nested) && !std::exchange(has_output, true)) step.output = field.bytes.text();
        if (!field.is(5, nested)) return;
        each_field(field.bytes, [&](const Field& part) {
            if (part.is(3, varint)) step.numbers[text_of(field.bytes, 1)] = part.value;
            if (part.number == 8 && text_of(field.bytes, 1) == "shape") read_numbers(part, step.shape);
        });
    });
    return step;
}

class Net {
  public:
    explicit Net(Bytes graph) : graph(graph) {
        each_field(graph, [&](const Field& field) {
            if (field.is(1, nested)) steps.push_back(read_step(field.bytes));
            if (field.is(5, nested)) weights[text_of(field.bytes, 8)] = {field.bytes, type_of(field.bytes)};
            if (field.is(12, nested)) outputs.insert(text_of(field.bytes, 1));
        });
        each_field(graph, [&](const Field& field) {
            if (field.is(11, nested) && !weights.count(text_of(field.bytes, 1))) image = text_of(field.bytes, 1);
        });
    }

    // Weights of fewer bits become float32. What goes to 8 bits and back between two steps is left as it was: OpenCV 5
    // computes it wrongly (seen with 5.0.0, not reported as far as known), OpenCV 4.6 and older not at all.
    // upstream: https://github.com/opencv/opencv/pull/22337 reads float16 from 4.7 on
    void widen() {
        std::map<std::string, std::string> instead, rounded;  // of what goes, and of what is in 8 bits: what it was
        std::vector<Step> kept;
        for (Step& step : steps) {
            for (std::string& input : step.inputs)
                if (instead.count(input)) input = instead[input];
            const bool is_free = !step.output.empty() && !outputs.count(step.output);
            const auto weight = weights.find(step.input(0));
            const std::int64_t type = weight == weights.end() ? 0 : weight->second.type;
            if (is_free && step.kind == "Cast" && type == float16 && step.numbers["to"] == float32)
                instead[step.output] = step.input(0);
            else if (is_free && step.kind == "QuantizeLinear")
                rounded[step.output] = step.input(0);
            else if (is_free && step.kind == "DequantizeLinear" && rounded.count(step.input(0)))
                instead[step.output] = rounded[step.input(0)];
            else if (is_free && step.kind == "DequantizeLinear" && (type == int8 || type == uint8))
                made.push_back(dequantised(step));
            else if (step.kind == "Unpack")
                made.push_back(unpacked(step));
            else
                kept.push_back(step);
        }
        for (const Step& step : kept)
            for (const std::string& input : step.inputs)
                if (rounded.count(input) || step.kind == "QuantizeLinear" || step.kind == "DequantizeLinear")
                    throw Error("it has 8 bits where export.py writes none");
        steps = std::move(kept);
    }

    // Takes out the steps from the image to the normalised one, where they are as export.py writes them, and tells how
    // to normalise instead.
    // upstream: https://github.com/opencv/opencv/pull/23557 (4.7 does not run their Max), and 4.5 does not read their
    // ReduceMax; drop when no OpenCV before 4.8 is taken
    void leave_out_normalisation(OnnxFile& about) {
        const auto is_colour = [&](const std::string& name) {
            return weights.count(name) && weights.at(name).type == float32 && values_of(name).size() == 3;
        };
        const auto divide = std::find_if(steps.begin(), steps.end(), [&](const Step& step) {
            return step.kind == "Div" && is_colour(step.input(1));
        });
        if (divide == steps.end()) return;
        static const std::set<std::string> kinds = {"ReduceMax", "Slice", "Max", "Concat", "Add", "Sub", "Div"};
        const std::string normalised = divide->output;
        std::set<std::string> needed = {normalised}, gone;
        std::string mean;
        bool own_maximum = false;
        std::vector<Step> kept;
        for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
            if (!needed.count(step->output)) {
                kept.push_back(*step);
                continue;
            }
            if (!kinds.count(step->kind)) return;
            if (step->kind == "Sub" && step->output == divide->input(0)) mean = step->input(1);
            own_maximum = own_maximum || step->kind == "ReduceMax";
            needed.insert(step->inputs.begin(), step->inputs.end());
            gone.insert(step->output);
        }
        if (!is_colour(mean) || !needed.count(image)) return;
        std::reverse(kept.begin(), kept.end());
        // Nothing else may read the image, or what was made of it on the way.
        for (const std::string& output : outputs)
            if (gone.count(output)) return;
        for (Step& step : kept)
            for (std::string& input : step.inputs) {
                if (input == image || (input != normalised && gone.count(input))) return;
                if (input == normalised) input = image;
            }
        const std::vector<float> means = values_of(mean), deviations = values_of(divide->input(1));
        if (std::count(deviations.begin(), deviations.end(), 0.f)) return;
        about.embedded = false;
        about.preprocess.own_maximum = own_maximum;
        std::copy(means.begin(), means.end(), about.preprocess.mean.begin());
        std::copy(deviations.begin(), deviations.end(), about.preprocess.std.begin());
        steps = std::move(kept);
    }

    Message written() const {
        Message message;
        std::set<std::string> used, names;
        for (const Step& step : steps) {
            used.insert(step.inputs.begin(), step.inputs.end());
            names.insert(step.output);
        }
        names.insert(used.begin(), used.end());
        std::string nothing = "nothing";
        while (names.count(nothing)) nothing += "_";
        for (const Step& step : steps) message.message(1, written(step, nothing));
        each_field(graph, [&](const Field& field) {
            const bool is_weight = field.is(5, nested), is_input = field.is(11, nested);
            const std::string name = is_weight ? text_of(field.bytes, 8) : is_input ? text_of(field.bytes, 1) : "";
            // OpenCV 4.5.1 reads no 8 bits, used or not. The notes on what lies between steps may be wrong by now.
            if (field.number == 1 || field.number == 13 || (weights.count(name) && !used.count(name))) return;
            if (is_weight) copy_in_float32(field, message);
            else message.copy(field);
        });
        for (const Tensor& tensor : made) message.message(5, u2slim::written(tensor));
        message.message(5, u2slim::written(Tensor{nothing, {0}, {}}));
        return message;
    }

  private:
    struct Weight {
        Bytes message;
        std::int64_t type;
    };

    std::vector<float> values_of(const std::string& name) { return tensor(name).values; }

    Tensor tensor(const std::string& name) {
        const auto weight = weights.find(name);
        if (weight == weights.end()) throw Error("its 8 bits have no factor, or one that is computed");
        Tensor tensor = read_tensor(weight->second.message, weight->second.type);
        count_values(tensor.values.size());
        return tensor;
    }

    // A hostile file may use one tensor many times.
    void count_values(std::size_t count) {
        if ((values_read += count) > 1 << 29) throw Error("it is larger than 2 GB in float32");
    }

    Tensor dequantised(const Step& step) {
        Tensor weight = tensor(step.input(0));
        const std::vector<float> factors = values_of(step.input(1)),
                                 offsets = step.input(2).empty() ? std::vector<float>() : values_of(step.input(2));
        const std::int64_t rank = weight.shape.size(), named = step.numbers.count("axis") ? step.numbers.at("axis") : 1,
                           axis = named < 0 ? named + rank : named;
        std::size_t inner = 1;
        if (factors.size() != 1) {
            if (axis < 0 || axis >= rank || std::size_t(weight.shape[axis]) != factors.size())
                throw Error("its weights in 8 bits have another number of factors than of channels");
            for (std::int64_t i = axis + 1; i < rank; ++i) inner *= weight.shape[i];
        }
        if (!offsets.empty() && offsets.size() != factors.size())
            throw Error("its weights in 8 bits have another number of factors than of offsets");
        for (std::size_t i = 0; i < weight.values.size(); ++i) {
            const std::size_t channel = i / inner % factors.size();
            float& value = weight.values[i];
            value = (value - (offsets.empty() ? 0 : offsets[channel])) * factors[channel];
            if (!std::isfinite(value)) throw Error("tensor " + weight.name + " has NaN or infinite values");
        }
        weight.name = step.output;
        return weight;
    }

    // docs/reference/packed.md has the form: whole numbers as planes of bits, the lowest first and the signs last, times the scale of their row.
    Tensor unpacked(const Step& step) {
        if (step.output.empty() || outputs.count(step.output)) throw Error("a packed weight is no mask");
        const auto planes = weights.find(step.input(0)), scales = weights.find(step.input(1));
        if (planes == weights.end() || scales == weights.end()) throw Error("a packed weight lacks its planes or its scales");
        const Tensor packed = tensor(step.input(0));
        const std::vector<float> factors = values_of(step.input(1));
        const bool has_planes = planes->second.type == uint8 && packed.shape.size() == 2;
        const std::int64_t bits = has_planes ? packed.shape[0] : 0;
        if (bits < 2 || bits > 8) throw Error("a packed weight has " + std::to_string(bits) + " planes, not 2 to 8 of bytes");
        const std::size_t width = packed.shape[1];
        std::size_t count = 1;
        for (const std::int64_t side : step.shape) {
            if (side < 1 || std::size_t(side) > 8 * width / count) throw Error("a packed weight has fewer numbers than its shape");
            count *= side;
        }
        const bool has_scales = scales->second.type == float16 || scales->second.type == float32;
        if (step.shape.size() != 4 || width != (count + 7) / 8 || !has_scales || factors.size() != std::size_t(step.shape[0]))
            throw Error("a packed weight has other planes or scales than it should have");
        count_values(count);
        Tensor weight{step.output, step.shape, std::vector<float>(count)};
        const std::vector<std::uint8_t> bytes(packed.values.begin(), packed.values.end());
        for (std::size_t i = 0; i < count; ++i) {
            const auto bit = [&](std::size_t plane) { return bytes[plane * width + i / 8] >> i % 8 & 1; };
            int size = 0;
            for (std::size_t plane = bits - 1; plane-- > 0;) size = size << 1 | bit(plane);
            weight.values[i] = float(bit(bits - 1) ? -size : size) * factors[i / (count / factors.size())];
            if (!std::isfinite(weight.values[i])) throw Error("tensor " + weight.name + " has NaN or infinite values");
        }
        return weight;
    }

    static Message written(const Step& step, const std::string& nothing) {
        Message message;
        std::size_t inputs = 0;
        each_field(step.message, [&](const Field& field) {
            if (field.is(1, nested)) {
                const std::string& input = step.inputs[inputs++];
                // upstream: not reported as far as known (OpenCV 4.5 looks for an input without a name); drop when no
                // OpenCV before 4.6 is taken
                message.text(1, input.empty() && step.kind == "Resize" ? nothing : input);
            } else if (field.is(5, nested)) {
                Message attribute;
                each_field(field.bytes, [&](const Field& part) {
                    if (part.is(5, nested)) copy_in_float32(part, attribute);
                    else if (step.kind == "Cast" && part.is(3, varint) && part.value == float16) attribute.number(3, float32);
                    // upstream: not reported as far as known (OpenCV 4.5.1 knows this by the other name only, and takes
                    // it for another); drop when no OpenCV before 4.6 is taken
                    else if (step.kind == "Resize" && part.is(4, nested) && part.bytes.text() == "half_pixel")
                        attribute.text(4, "pytorch_half_pixel");
                    else attribute.copy(part);
                });
                message.message(5, attribute);
            } else {
                message.copy(field);
            }
        });
        return message;
    }

    Bytes graph;
    std::vector<Step> steps;
    std::map<std::string, Weight> weights;  // as the file has them
    std::vector<Tensor> made;               // of its weights in 8 bits
    std::set<std::string> outputs;
    std::string image;
    std::size_t values_read = 0;
};

}  // namespace

std::string plain_onnx(Bytes file, OnnxFile& about) {
    Message model;
    each_field(file, [&](const Field& field) {
        // Functions are of packed weights, which are gone.
        if (field.number == 25 || (field.is(8, nested) && text_of(field.bytes, 1) == "u2slim")) return;
        if (!field.is(7, nested)) return model.copy(field);
        Net net(field.bytes);
        net.widen();
        if (about.embedded) net.leave_out_normalisation(about);
        model.message(7, net.written());
    });
    return model.str();
}

}  // namespace u2slim
