#include "onnx_file.hpp"

#include "protobuf.hpp"

#include <algorithm>
#include <cmath>
#include <locale>
#include <map>
#include <set>
#include <sstream>
#include <utility>

namespace u2slim {
namespace {

constexpr std::int64_t max_side = 4096;       // pixels of a net's input
constexpr std::int64_t max_window = 1024;     // of a kernel, a stride, a dilation or a margin
constexpr std::size_t max_rank = 8;           // OpenCV's own is 10, not checked everywhere
constexpr std::int64_t max_values = 1 << 29;  // of one tensor: 2 GB in float32
constexpr long convolutions_of_u2net = 119;   // and of IS-Net, of any width, with their side outputs and the fused one

std::string shown(const std::vector<std::int64_t>& shape) {
    std::string text;
    for (std::int64_t side : shape) text += (text.empty() ? "" : "x") + (side ? std::to_string(side) : "?");
    return text.empty() ? "nothing" : text;
}

struct Value {
    std::string name;
    std::int64_t type = 0;
    bool has_shape = false;
    std::vector<std::int64_t> shape;  // 0: any
};

Value read_value(Bytes message) {
    Value value;
    each_field(message, [&](const Field& field) {
        if (field.is(1, nested)) value.name = field.bytes.text();
        if (!field.is(2, nested)) return;
        each_field(field.bytes, [&](const Field& kind) {
            if (!kind.is(1, nested)) return;
            each_field(kind.bytes, [&](const Field& tensor) {
                if (tensor.is(1, varint)) value.type = tensor.value;
                if (!tensor.is(2, nested)) return;
                value.has_shape = true;
                each_field(tensor.bytes, [&](const Field& dimension) {
                    if (!dimension.is(1, nested)) return;
                    value.shape.push_back(0);
                    each_field(dimension.bytes, [&](const Field& side) {
                        if (side.is(1, varint)) value.shape.back() = side.value;
                    });
                });
            });
        });
    });
    return value;
}

// How values of a type are stored: the bytes of each, and the field that has them where they are not raw.
struct Storage {
    int bytes;
    std::uint64_t field;
};

Storage storage_of(std::int64_t type) {
    static const std::map<std::int64_t, Storage> types = {{1, {4, 4}}, {2, {1, 5}}, {3, {1, 5}},  {6, {4, 5}},
                                                          {7, {8, 7}}, {9, {1, 5}}, {10, {2, 5}}, {11, {8, 10}}};
    const auto found = types.find(type);
    if (found == types.end()) throw Error("a tensor has values of an unknown type");
    return found->second;
}

// The numbers in one of a tensor's fields: floats and doubles have their own width, others are varints.
std::size_t count_values(const Field& field) {
    if (field.number == 4 || field.number == 10)
        return field.wire == nested ? field.bytes.size / (field.number == 4 ? 4 : 8) : 1;
    std::vector<std::int64_t> numbers;
    read_numbers(field, numbers);
    return numbers.size();
}

// Whether values of a floating-point type all have an exponent below the one of NaN and infinity, which is in their last
// bytes.
bool are_finite(Bytes values, std::int64_t type) {
    const std::size_t bytes = type == 1 ? 4 : type == 10 ? 2 : type == 11 ? 8 : 0;
    const std::uint32_t exponent = type == 1 ? 0x7f80 : type == 10 ? 0x7c00 : 0x7ff0;
    for (std::size_t at = 0; bytes > 0 && at + bytes <= values.size; at += bytes)
        if ((values.little(at + bytes - 2, 2) & exponent) == exponent) return false;
    return true;
}

// Returns the tensor's name. OpenCV reads as many values as the shape says, whatever is there.
// upstream: https://github.com/opencv/opencv/pull/29314, and pull/29370 for 5; drop when no older OpenCV is taken
std::string check_tensor(Bytes message) {
    std::vector<std::int64_t> shape;
    std::int64_t type = 0;
    std::vector<Field> values;
    std::map<std::uint64_t, std::size_t> typed;
    std::vector<std::int64_t> halves;
    std::string name;
    each_field(message, [&](const Field& field) {
        if (field.number == 1) read_numbers(field, shape);
        if (field.is(2, varint)) type = field.value;
        if (field.is(8, nested)) name = field.bytes.text();
        if (field.is(9, nested) || field.number == 4 || field.number == 10) values.push_back(field);
        if (field.number == 5) read_numbers(field, halves);
        if (field.is(13, nested) || (field.is(14, varint) && field.value != 0))
            throw Error("its weights are in a file of their own; save it as one file");
        if (field.number == 4 || field.number == 5 || field.number == 7 || field.number == 10 || field.number == 11)
            typed[field.number] += count_values(field);
    });
    std::size_t count = 1;
    if (shape.size() > max_rank) throw Error("tensor " + name + " has " + std::to_string(shape.size()) + " dimensions");
    for (std::int64_t side : shape) {
        if (side < 0 || side > max_values || (side > 0 && std::int64_t(count) > max_values / side))
            throw Error("tensor " + name + " is of an impossible size, " + shown(shape));
        count *= side;
    }
    const Storage storage = storage_of(type);
    std::size_t raw = 0;
    for (const Field& field : values)
        if (field.number == 9) raw = field.bytes.size;
    const bool has_typed = typed.size() == 1 && raw == 0 && typed.count(storage.field) && typed[storage.field] == count;
    if (!has_typed && !(typed.empty() && raw == count * storage.bytes))
        throw Error("tensor " + name + " has other values than the " + shown(shape) + " that it should have");
    // Not left to the mask that comes out: OpenCV 5's sigmoid makes 1 of NaN.
    const bool finite = std::all_of(values.begin(), values.end(), [&](const Field& f) { return are_finite(f.bytes, type); });
    const bool is_half = type == 10;
    if (!finite || (is_half && std::any_of(halves.begin(), halves.end(), [](auto n) { return (n & 0x7c00) == 0x7c00; })))
        throw Error("tensor " + name + " has NaN or infinite values");
    return name;
}

struct Node {
    std::string name, kind, domain;
    std::vector<std::string> inputs, outputs;
    bool halves = false;  // with strides of 2
};

void check_attribute(Bytes message, Node& node) {
    std::string name;
    std::vector<std::int64_t> numbers;
    each_field(message, [&](const Field& field) {
        if (field.is(1, nested)) name = field.bytes.text();
        if (field.is(3, varint)) numbers.push_back(field.value);
        if (field.is(5, nested)) check_tensor(field.bytes);
        if (field.is(6, nested) || field.is(11, nested)) throw Error("it has branches or loops, which no such net has");
        if (field.number == 8) read_numbers(field, numbers);
    });
    const bool is_size = name == "kernel_shape" || name == "strides" || name == "dilations" || name == "group";
    const std::int64_t most = name == "group" ? 1 << 16 : max_window;
    if (is_size || name == "pads")
        for (std::int64_t number : numbers)
            if (number < (is_size ? 1 : 0) || number > most)
                throw Error("an impossible value of " + name + ", " + std::to_string(number));
    if (name == "strides") node.halves = numbers == std::vector<std::int64_t>{2, 2};
}

struct Graph {
    std::vector<Node> nodes;
    std::vector<Value> inputs, outputs;
    std::set<std::string> initializers;
};

Node read_node(Bytes message) {
    Node node;
    each_field(message, [&](const Field& field) {
        if (field.is(1, nested)) node.inputs.push_back(field.bytes.text());
        if (field.is(2, nested)) node.outputs.push_back(field.bytes.text());
        if (field.is(3, nested)) node.name = field.bytes.text();
        if (field.is(4, nested)) node.kind = field.bytes.text();
        if (field.is(5, nested)) check_attribute(field.bytes, node);
        if (field.is(7, nested)) node.domain = field.bytes.text();
    });
    return node;
}

// The fewest and the most inputs of each operation that such nets have. OpenCV reads the others, too, and is easily led
// astray by a file that has them in another way than they are meant.
void check_node(const Node& node) {
    using Range = std::pair<std::size_t, std::size_t>;
    static const std::map<std::string, Range> kinds = {
        {"Add", {2, 2}}, {"Sub", {2, 2}}, {"Mul", {2, 2}}, {"Div", {2, 2}}, {"Max", {1, 9}}, {"Min", {1, 9}},
        {"Pow", {2, 2}}, {"Sqrt", {1, 1}}, {"ReduceSum", {1, 2}}, {"Conv", {2, 3}}, {"ConvTranspose", {2, 3}},
        {"BatchNormalization", {5, 5}}, {"MaxPool", {1, 1}}, {"AveragePool", {1, 1}},
        {"GlobalMaxPool", {1, 1}}, {"GlobalAveragePool", {1, 1}}, {"ReduceMax", {1, 2}}, {"ReduceMean", {1, 2}},
        {"Relu", {1, 1}}, {"Sigmoid", {1, 1}}, {"Clip", {1, 3}}, {"Floor", {1, 1}}, {"Identity", {1, 1}},
        {"QuantizeLinear", {2, 3}}, {"DequantizeLinear", {2, 3}}, {"Cast", {1, 1}}, {"Constant", {0, 0}}, {"Concat", {1, 99}}, {"Resize", {1, 4}}, {"Upsample", {1, 2}},
        {"Pad", {1, 3}}, {"Shape", {1, 1}}, {"Gather", {2, 2}}, {"Slice", {1, 5}}, {"Reshape", {1, 2}},
        {"Flatten", {1, 1}}, {"Transpose", {1, 1}}, {"Expand", {2, 2}}, {"Squeeze", {1, 2}}, {"Unsqueeze", {1, 2}},
        {"Unpack", {2, 2}}};
    const auto found = kinds.find(node.kind);
    const bool has_domain = node.kind == "Unpack" ? node.domain == "u2slim" : node.domain.empty() || node.domain == "ai.onnx";
    if (found == kinds.end() || !has_domain)
        throw Error("it has an operation " + node.domain + (node.domain.empty() ? "" : ".") + node.kind +
                    ", which is not one of such a net");
    const auto [fewest, most] = found->second;
    if (node.inputs.size() < fewest || node.inputs.size() > most || node.outputs.empty() ||
        std::count(node.inputs.begin(), node.inputs.begin() + fewest, "") > 0)
        throw Error("the operation " + node.kind + " " + node.name + " has too few inputs or too many");
}

// Every tensor is there before it is used, and made once.
void check_order(const Graph& graph) {
    std::set<std::string> known = graph.initializers;
    for (const Value& input : graph.inputs) known.insert(input.name);
    for (const Node& node : graph.nodes) {
        for (const std::string& input : node.inputs)
            if (!input.empty() && !known.count(input)) throw Error("nothing computes " + input);
        for (const std::string& output : node.outputs)
            if (!output.empty() && !known.insert(output).second) throw Error(output + " is there twice");
    }
}

Graph read_graph(Bytes message) {
    Graph graph;
    each_field(message, [&](const Field& field) {
        if (field.wire != nested) return;
        switch (field.number) {
            case 1: graph.nodes.push_back(read_node(field.bytes)); break;
            case 5:
                if (!graph.initializers.insert(check_tensor(field.bytes)).second) throw Error("weights of one name twice");
                break;
            case 11: graph.inputs.push_back(read_value(field.bytes)); break;
            case 12: graph.outputs.push_back(read_value(field.bytes)); break;
            case 15: throw Error("it has sparse weights, which OpenCV does not read");
        }
    });
    for (const Node& node : graph.nodes) check_node(node);
    check_order(graph);
    return graph;
}

// The side of the net's input in one direction; where the file leaves it open, `u2slim.size` is one side or HxW.
int side_of(std::int64_t declared, const std::map<std::string, std::string>& metadata, bool is_width, int usual) {
    const auto size = metadata.find("u2slim.size");
    std::int64_t side = declared;
    if (side == 0) {
        side = usual;
        if (size != metadata.end()) {
            const std::size_t cross = size->second.find('x');
            const std::string text = cross == std::string::npos ? size->second
                                     : is_width                 ? size->second.substr(cross + 1)
                                                                : size->second.substr(0, cross);
            const bool is_number = !text.empty() && text.size() < 6 && text.find_first_not_of("0123456789") == text.npos;
            side = is_number ? std::stoi(text) : 0;
        }
    }
    if (side < 1 || side > max_side)
        throw Error("its input is to be " + std::to_string(side) + " pixels on a side; 1 to 4096 are possible");
    return int(side);
}

const Value& only_input(const Graph& graph) {
    std::vector<const Value*> inputs;
    for (const Value& input : graph.inputs)
        if (!graph.initializers.count(input.name)) inputs.push_back(&input);
    if (inputs.size() != 1) throw Error("it has " + std::to_string(inputs.size()) + " inputs, not one image");
    const Value& input = *inputs[0];
    if (input.shape.size() == 4 && input.shape[3] == 3 && input.shape[1] != 3)
        throw Error("its input " + input.name + " is " + shown(input.shape) + ", with the colours last");
    if (input.shape.size() != 4 || (input.shape[1] != 3 && input.shape[1] != 0) || input.shape[0] < 0 || input.shape[0] > 1)
        throw Error("its input is " + shown(input.shape) + ", not one image of 1x3xHxW");
    if (input.type != 1) throw Error("its input is not in float32");
    return input;
}

// Three numbers with spaces between.
std::array<double, 3> three_numbers(const std::string& text) {
    std::array<double, 3> numbers{};
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());
    for (double& number : numbers)
        if (!(stream >> number) || !std::isfinite(number)) throw Error("its input's mean and deviation are not three numbers each");
    if (!(stream >> std::ws).eof()) throw Error("its input's mean and deviation are not three numbers each");
    return numbers;
}

// IS-Net begins with a convolution that halves the photo and feeds another one; that of ResNets is followed by ReLU.
bool looks_like_isnet(const Graph& graph) {
    const auto first = std::find_if(graph.nodes.begin(), graph.nodes.end(), [](const Node& n) { return n.kind == "Conv"; });
    if (first == graph.nodes.end() || !first->halves) return false;
    std::string value = first->outputs[0];
    for (auto node = first + 1; node != graph.nodes.end(); ++node) {
        if (std::find(node->inputs.begin(), node->inputs.end(), value) == node->inputs.end()) continue;
        if (node->kind != "Cast" && node->kind != "Mul" && node->kind != "Add") return node->kind == "Conv";
        value = node->outputs[0];
    }
    return false;
}

// How the file says that its input is normalised.
Preprocess read_preprocess(std::map<std::string, std::string>& metadata) {
    Preprocess preprocess;
    if (metadata.count("u2slim.mean")) preprocess.mean = three_numbers(metadata["u2slim.mean"]);
    if (metadata.count("u2slim.std")) preprocess.std = three_numbers(metadata["u2slim.std"]);
    if (metadata.count("u2slim.divisor")) {
        const std::string& divisor = metadata["u2slim.divisor"];
        if (divisor != "maximum" && divisor != "255") throw Error("its input is to be divided by " + divisor);
        preprocess.own_maximum = divisor == "maximum";
    }
    for (const double deviation : preprocess.std)
        if (deviation == 0) throw Error("its input has a deviation of 0");
    return preprocess;
}

// The colours of the classes that the file names, if it does.
std::vector<Colour> read_palette(std::map<std::string, std::string>& metadata) {
    if (!metadata.count("u2slim.classes")) return {};
    const std::string& text = metadata["u2slim.palette"];
    std::vector<Colour> palette;
    for (std::size_t at = 0; at < text.size(); at += 8) {  // "#rrggbb #rrggbb"
        const std::string digits = text.substr(at + 1, 6);
        if (text[at] != '#' || digits.size() < 6 || digits.find_first_not_of("0123456789abcdef") != digits.npos)
            throw Error("its colours are not written as #rrggbb");
        const unsigned long value = std::stoul(digits, nullptr, 16);
        palette.push_back({std::uint8_t(value >> 16), std::uint8_t(value >> 8), std::uint8_t(value)});
    }
    return palette;
}

// The names of as many classes as there are colours.
std::vector<std::string> read_classes(std::map<std::string, std::string>& metadata, std::size_t colours) {
    if (!metadata.count("u2slim.classes")) return {};
    const std::string& text = metadata["u2slim.classes"];
    std::vector<std::string> names;
    for (std::size_t at = 0; at <= text.size(); at += names.back().size() + 1)
        names.push_back(text.substr(at, text.find(',', at) - at));
    if (colours == 0 || colours > 254 || colours != names.size())
        throw Error("it has another number of classes than of colours, or too many");
    return names;
}

const Value& logits_output(const Graph& graph, std::int64_t classes) {
    for (const Value& output : graph.outputs)
        if (output.name == "logits") {
            if (output.has_shape && (output.shape.size() != 4 || (output.shape[1] != classes && output.shape[1] != 0)))
                throw Error("its output logits is " + shown(output.shape) + ", for " + std::to_string(classes) + " classes");
            return output;
        }
    throw Error("it has no output `logits`, of its classes");
}

std::vector<std::int64_t> without_ones(std::vector<std::int64_t> shape) {
    shape.erase(std::remove(shape.begin(), shape.end(), 1), shape.end());
    return shape;
}

// The first output of another project's file, unless one is called `mask`.
const Value& mask_output(const Graph& graph, const Value& input, bool ours) {
    const Value* mask = nullptr;
    for (const Value& output : graph.outputs)
        if (output.name == "mask" || (!mask && !ours)) mask = &output;
    if (!mask) throw Error(ours ? "it has no output `mask`" : "it has no output");
    const std::vector<std::int64_t> image = {input.shape[2], input.shape[3]};
    const auto is_known = [](std::int64_t side) { return side > 0; };
    // What is open shows when it is tried. In this order, or the mask lies askew.
    if (std::all_of(image.begin(), image.end(), is_known) && mask->has_shape &&
        std::all_of(mask->shape.begin(), mask->shape.end(), is_known) && without_ones(mask->shape) != without_ones(image))
        throw Error("its output " + mask->name + " is " + shown(mask->shape) + ", not a mask of 1x1x" + shown(image));
    return *mask;
}

const Node& producer(const Graph& graph, const std::string& tensor) {
    for (const Node& node : graph.nodes)
        if (std::find(node.outputs.begin(), node.outputs.end(), tensor) != node.outputs.end()) return node;
    throw Error("nothing computes its output " + tensor);
}

}  // namespace

OnnxFile describe_onnx(Bytes file) {
    std::map<std::string, std::string> metadata;
    std::vector<Bytes> graphs;
    each_field(file, [&](const Field& field) {
        if (field.is(7, nested)) graphs.push_back(field.bytes);
        if (!field.is(14, nested)) return;
        std::string key, value;
        each_field(field.bytes, [&](const Field& part) {
            if (part.is(1, nested)) key = part.bytes.text();
            if (part.is(2, nested)) value = part.bytes.text();
        });
        metadata[key] = value;
    });
    if (graphs.size() != 1) throw Error("it is empty or holds no net");
    const Graph graph = read_graph(graphs[0]);
    const Value& input = only_input(graph);
    const bool ours = metadata.count("u2slim.preprocess") > 0, says = ours || metadata.count("u2slim.mean") > 0;
    const bool isnet = looks_like_isnet(graph);
    const int usual = isnet ? 1024 : 320, height = side_of(input.shape[2], metadata, false, usual),
              width = side_of(input.shape[3], metadata, true, usual);
    // Other programs leave out what 8 bits do by themselves, a ReLU for one, and would be read wrongly in float32.
    for (const Node& node : graph.nodes)
        if (!ours && (node.kind == "QuantizeLinear" || node.kind == "DequantizeLinear"))
            throw Error("it is in 8 bits, which are read from files of export.py only");
    const std::vector<Colour> palette = read_palette(metadata);
    const std::vector<std::string> classes = read_classes(metadata, palette.size());
    const std::string mask = (palette.empty() ? mask_output(graph, input, ours) : logits_output(graph, palette.size())).name,
                      node = producer(graph, mask).name;
    const long convolutions =
        std::count_if(graph.nodes.begin(), graph.nodes.end(), [](const Node& n) { return n.kind == "Conv"; });
    const Preprocess by_looks = isnet ? Preprocess{{.5, .5, .5}, {1, 1, 1}, false} : Preprocess();
    // OpenCV 4.5 to 5.0 call a layer after its output or its node, with and without these words before it.
    return {height, width, ours && metadata["u2slim.preprocess"] == "embedded",
            says ? read_preprocess(metadata) : by_looks, says,
            convolutions != convolutions_of_u2net ? "" : isnet ? "IS-Net" : "U2-Net",
            {mask, "onnx_node!" + node, "onnx_node_output_0!" + mask, node},
            classes, palette};
}

}  // namespace u2slim
