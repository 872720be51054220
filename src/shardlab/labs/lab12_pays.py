"""Lab 12: a transformer layer on t devices, by arithmetic: its products get shorter, its all-reduces do not."""

from dataclasses import dataclass

from shardlab.cost import ALL_REDUCES, DEVICES, LINKS, MODELS, layer_time, layer_weights, step_latency
from shardlab.labs.lab import HTML, Lab, menu, said, steps
from shardlab.pictures.pays import bars, seconds

SHARDS = [1, 2, 4, 8, 16, 32, 64]
TOKENS = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536]
DENSE = [name for name, model in MODELS.items() if not model.experts]
ALPHA, _ = step_latency([row for row in ALL_REDUCES if row.what == "8 H200"])  # the one that was measured, for all


@dataclass
class Pays:
    """Seconds of a layer: `times[t]` is (products, wire) on t shards, or None where t does not divide the heads."""

    times: dict
    heads: int

    @property
    def best(self):
        return min((t for t in self.times if self.times[t]), key=lambda t: sum(self.times[t]))

    def speedup(self, t):
        return sum(self.times[1]) / sum(self.times[t])


def pays_result(shards=8, batch=1024, model="Llama 3.1 8B", device="H100 SXM", link="NVLink 4"):
    """The layer for every number of shards (all of them, whatever `shards` is), forward, for `batch` tokens."""
    shape, chip, wire = MODELS[model], DEVICES[device], LINKS[link]
    flops = (chip.reached_tflops or chip.tflops) * 1e12
    given = layer_weights(shape), shape.h, batch
    of_device = flops, chip.bandwidth_TB * 1e12, ALPHA, 1 / (wire.GB_per_s * 1e9)
    times = {t: None if shape.heads % t else layer_time(*given, t, *of_device) for t in SHARDS}
    return Pays(times, shape.heads)


def draw_pays(shards, batch, model, device, link):
    """The picture of a state of this lab, as HTML."""
    ran = pays_result(shards, batch, model, device, link)
    why = f"{ran.heads} heads"
    return verdict(ran, shards) + best(ran) + bars(ran.times, shards, told(ran, shards), why)


def verdict(ran, t):
    if ran.times[t] is None:
        return said(False, f"{t} shards:", f"{ran.heads} heads cannot be shared out among them evenly.")
    products, wire = ran.times[t]
    parts = f"{seconds(products)} of products and {seconds(wire)} of wire."
    if t == 1:
        return said(None, "One device:", parts)
    if ran.speedup(t) < 1:
        return said(False, f"{t} shards are slower than one:", parts)
    used = 100 * ran.speedup(t) / t
    return said(
        True, f"{t} shards are {ran.speedup(t):.1f}× as fast as one:", f"{parts} {used:.0f} % of what {t} have."
    )


def best(ran):
    t = ran.best
    if t == 1:
        return said(None, "Best: one device.", "Here it does not pay.")
    return said(None, f"Best: {t} shards,", f"{ran.speedup(t):.1f}× as fast as one.")


def told(ran, t):
    """The picture in words."""
    each = ", ".join(
        f"{t} {seconds(sum(time))}, of which wire {seconds(time[1])}" if time else f"{t} not possible"
        for t, time in ran.times.items()
    )
    return f"The time of a layer by the number of shards: {each}. The best is {ran.best}, {t} is chosen."


def pays_picture(shards=8, batch=1024, model="Llama 3.1 8B", device="H100 SXM", link="NVLink 4"):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_pays(shards, batch, model, device, link))


def pays(shards=8, batch=1024, model="Llama 3.1 8B", device="H100 SXM", link="NVLink 4"):
    """The lab of lesson 12: how many shards, how many tokens, of which model, on which devices and wires."""
    controls = {
        "shards": steps("shards", shards, SHARDS, "how many devices share a layer"),
        "batch": steps("tokens", batch, TOKENS, "how many tokens go through the layer at once"),
        "model": menu("model", model, DENSE, "whose layer it is"),
        "device": menu("device", device, list(DEVICES), "what multiplies: FLOP/s that a product reaches, bytes/s"),
        "link": menu("link", link, list(LINKS), "what connects the devices: GB/s of one device in one direction"),
    }
    return Lab(controls, draw_pays)
