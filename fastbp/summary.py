"""A network's layers as a table."""
from .layers import Dense, Dropout


def table(network) -> str:
    """A row for each layer: what it is, its output, and how many numbers are trained."""
    rows, neurons, total = [("layer", "output", "parameters")], network.n_inputs, 0
    for layer in network.layers:
        count = 0
        if isinstance(layer, Dense):
            neurons, count = layer.weights.shape[1], layer.weights.size + (0 if layer.biases is None else layer.biases.size)
        rows.append((_name(layer), f"(rows, {neurons})", f"{count:,}"))
        total += count
    rows.append(("all", network.dtype.name, f"{total:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{name:<{widths[0]}}  {output:<{widths[1]}}  {count:>{widths[2]}}" for name, output, count in rows]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], f"loss {network.loss or 'none'}, l2 {network.l2:g}"])


def _name(layer):
    if isinstance(layer, Dropout):
        return f"Dropout {layer.rate:g}"
    if isinstance(layer, Dense):
        return "Dense" if layer.activation == "identity" else f"Dense {layer.activation}"
    return type(layer).__name__
