"""Random changes of good model files: of bytes, of the description, or of an array's header.

Each function takes a random.Random, the suffix of the format, and the arrays and the description of a good file. It returns the
content of a changed file.
"""
import json

from .model_files import TENSOR_OF, npy, npz, tensors, written

# Numbers to write over 1, 2, 4 or 8 bytes: limits of integers, and sizes that occur in the formats.
_NUMBERS = [0, 1, 2, 8, 20, 22, 64, 0x7F, 0x80, 0xFF, 0xFFFF, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62,
            (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


def changed_bytes(draw, suffix, arrays, about):
    """Change bytes at one to three places, more often in the structure of the file than in the data of the arrays."""
    content = bytearray(written(suffix, arrays, json.dumps(about)))
    for _ in range(draw.choice([1, 1, 2, 3])):
        i = _place(draw, suffix, content)
        how = draw.randrange(7)
        if how == 0:
            content[i:i + 1] = bytes([draw.randrange(256)])
        elif how == 1:
            content[i] ^= 1 << draw.randrange(8)
        elif how == 2:
            size = draw.choice([1, 2, 4, 8])
            number = draw.choice([*_NUMBERS, len(content), len(content) - 1])
            content[i:i + size] = (number % (1 << 8 * size)).to_bytes(size, "little")
        elif how == 3:
            del content[i:i + draw.choice([1, 2, 8, 100, len(content)])]
        elif how == 4:
            content[i:i] = draw.randbytes(draw.choice([1, 2, 8, 100]))
        elif how == 5:
            j = draw.randrange(len(content))
            content[i:i] = content[j:j + draw.choice([4, 30, 200])]
        else:
            content += draw.randbytes(draw.choice([1, 22, 100]))
        if not content:
            break
    return bytes(content)


def _place(draw, suffix, content):
    """Return a random place: one of five anywhere, the others in headers."""
    if draw.random() < 0.2:
        return draw.randrange(len(content))
    if suffix == "safetensors":
        return draw.randrange(min(len(content), draw.choice([8, 600])))
    marks = [i for i in range(len(content) - 1) if content[i:i + 2] in (b"PK", b"\x93N")] or [0]
    return min(draw.choice(marks) + draw.randrange(120), len(content) - 1)


def _nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


# Values to put into a description.
_VALUES = [None, True, False, 0, 1, -1, 2, 1.0, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"),
           1 << 63, -1 << 63, 10**400, -10**400, "", "1", "relu", "bfloat16", "float32", "float64", "Dense", "Dropout", "ReLU",
           "SoftmaxCrossEntropy", "Sequential", "__import__('os').abort()", "\0", "\x1b[2J\r\n", "\ud800", "é" * 100_000, [],
           {}, [[]], ["Dense"], {"type": "Dense"}, {"__class__": "Dense"}, _nested(50), _nested(500), _nested(900)]


def changed_description(draw, suffix, arrays, about):
    """Change, remove or double a value, a name or an element in the JSON of the description."""
    about = json.loads(json.dumps(about))
    for _ in range(draw.choice([1, 1, 2])):
        place = draw.choice([about, about, *(layer for layer in _as_list(about.get("layers")) if isinstance(layer, dict))])
        name, how = draw.choice([*place, "more"]), draw.randrange(8)
        if how == 0:
            place.pop(name, None)
        elif how == 1:
            place[draw.choice(["", "code", "__class__", "biases", "Type", name + "\0"])] = draw.choice(_VALUES)
        elif how == 2 and isinstance(about.get("layers"), list):
            layers = about["layers"]
            i = draw.randrange(len(layers) + 1)
            layers[i:i + draw.randrange(2)] = draw.choice([[], layers[:1], layers, [draw.choice(_VALUES)]])
        else:
            place[name] = draw.choice(_VALUES)
    text = json.dumps(about)
    how = draw.randrange(20)
    if how == 0:
        text = text.replace('"', "'", 1)
    elif how == 1:
        text = text.replace("{", '{"l2": 0.5, ', 1)
    elif how == 2:
        text = "[" * draw.choice([1, 1000, 100_000]) + text
    return written(suffix, arrays, text)


def _as_list(value):
    return value if isinstance(value, list) else []


# Dtypes to put into the header of an array: of an .npz file, of an .npz file for an array without data, of a .safetensors file.
_DTYPES = ["<f4", "<f8", ">f4", "f4", "=f4", "f", "float32", "<f2", "<f16", "<i4", "|O", "O", "|S4", "<U1", "|V4", "<c8", "|b1",
           "<M8[s]", "f4,f4", [("x", "<f4")], ("<f4", (2,)), ("<f4", (1 << 40,)), {}, None, 4, "numpy.float32", "<U999999999",
           "os.system"]
_EMPTY_DTYPES = ["|V0", "|S0", "<U0", "|V", "V", "S", "U", "|a0", ("<f4", (0,)), ("|V0", (1 << 40,)), [], (), [("x", "|V0")],
                 "(0,)f4", "(1000000000000,)V0", "<f4", "<f8"]
_TENSOR_DTYPES = ["F32", "F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "C64", "", "O", None, 4]
# Names and shapes to put into the header of an array.
_NAMES = ["../../x", "/x", "C:\\x", "x\0", "", "0.weights", "1.biases", "00.weights", "0.weights.npy", "\x1b[2J", "é" * 300,
          "fastbp", "__metadata__"]
_SHAPES = [(), (0,), (1,), (-1,), (3, -2), (-2, -3), (True, 2), (1.0,), ("2",), (10**12,), (10**12, 0), (0, 10**18),
           (2**32, 2**32), (2**63,), (10**30, 0), (1,) * 65, (0, 10**13), (10**13, 0), (1 << 24, 0), (0, 1 << 24),
           (False, 3), (True, True), (0, -1), (0, 0), [3, 2], 6, None, (3, 2), (2, 3), (6,)]


def changed_arrays(draw, suffix, arrays, about):
    """Change the shape, the name, the dtype, the place or the amount of data of one array, in its header or in the file."""
    name, how = draw.choice([*arrays]), draw.choice(["shape", "axes", "name", "data", "dtype", "place", "nothing"])
    array, data = arrays[name], arrays[name].tobytes()
    shape, said, dtype = array.shape, name, array.dtype.str if suffix == "npz" else TENSOR_OF[array.itemsize]
    if how == "shape":
        shape = draw.choice(_SHAPES)
    elif how == "axes":
        shape = draw.choice([shape[::-1], (*shape, 1), (1, *shape), shape[:-1], (array.size,)])
    elif how == "name":
        said = draw.choice(_NAMES)
    elif how == "data":
        data = draw.choice([b"", data[:-1], data + b"\0", data * 2, data[:4]])
    elif how == "dtype":
        dtype = draw.choice(_DTYPES if suffix == "npz" else _TENSOR_DTYPES)
    elif how == "nothing":
        shape, data = draw.choice([*_SHAPES, (draw.randrange(1 << 62), draw.choice([0, 1, 10**13]))]), b""
        dtype = draw.choice(_EMPTY_DTYPES if suffix == "npz" else _TENSOR_DTYPES)
    others = [(key, value) for key, value in arrays.items() if key != name]
    i, text = draw.randrange(len(others) + 1), json.dumps(about)
    if suffix == "npz":
        content = bytearray(npy(shape, data, dtype, draw.choice([True, 1, None]) if how == "place" else False))
        if how == "place":
            content[draw.randrange(min(len(content), 128))] = draw.randrange(256)
        entries = [(f"{key}.npy", npy(value.shape, value.tobytes(), value.dtype.str)) for key, value in others]
        return npz([*entries[:i], (f"{said}.npy", bytes(content)), *entries[i:]], text)

    def misplaced(header):
        header[name]["data_offsets"] = [draw.choice([*_NUMBERS, -1, 0.0, None, 4, len(data)]) for _ in range(2)]
        return header

    entries = [(key, TENSOR_OF[value.itemsize], list(value.shape), value.tobytes()) for key, value in others]
    return tensors([*entries[:i], (said, dtype, shape, data), *entries[i:]], text, misplaced if how == "place" else None)


# The functions, as often as they are to be drawn.
KINDS = changed_bytes, changed_bytes, changed_description, changed_description, changed_arrays
