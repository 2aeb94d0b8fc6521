// Scroll through the slices of a series in HU. The page holds the slices as text, packed by report.viewer.pack_hu.
(() => {
  const root = document.currentScript.parentElement;
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const canvas = root.querySelector("canvas");
  const slider = root.querySelector("[type=range]");
  const width = root.querySelector(".width");
  const level = root.querySelector(".level");
  const output = root.querySelector("output");
  const presets = [...root.querySelectorAll("button")];
  const cells = [...root.querySelectorAll(".strip i")];
  const n = data.hu.length;
  const [rows, cols] = data.shape;
  const context = canvas.getContext("2d");
  const image = context.createImageData(cols, rows);
  const unpacked = []; // a promise of HU for each slice that was asked for
  let lastAsked = 0;
  let frame = 0;

  // The first of the two halves holds the high bytes; values are differences to the pixel before, zigzag coded.
  const unpack = async (text) => {
    const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    const hu = new Int16Array(rows * cols);
    for (let i = 0; i < hu.length; i++) {
      const zigzag = (bytes[i] << 8) | bytes[hu.length + i];
      const difference = (zigzag >> 1) ^ -(zigzag & 1);
      hu[i] = difference + (i % cols ? hu[i - 1] : 0);
    }
    return hu;
  };

  const draw = async () => {
    frame = 0;
    const i = +slider.value;
    const w = +width.value;
    const l = +level.value;
    const asked = ++lastAsked;
    const hu = await (unpacked[i] ??= unpack(data.hu[i]));
    if (asked !== lastAsked) return; // another slice or window has been asked for meanwhile
    const pixels = image.data;
    const low = l - w / 2;
    for (let k = 0; k < hu.length; k++) {
      const grey = ((hu[k] - low) / w) * 255;
      pixels[4 * k] = grey;
      pixels[4 * k + 1] = grey;
      pixels[4 * k + 2] = grey;
      pixels[4 * k + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    canvas.dataset.shown = [i, w, l];
  };

  const tooOld = () => {
    output.textContent = "This browser is too old to unpack the slices.";
  };

  const drawSoon = () => {
    frame ||= requestAnimationFrame(() => draw().catch(tooOld));
  };

  const describeSlice = () => {
    const i = +slider.value;
    const text = data.titles[i] + "\n" + data.labels[i];
    output.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    canvas.setAttribute("aria-label", text);
    cells.forEach((cell, k) => cell.classList.toggle("at", k === i));
    drawSoon();
  };

  // True when the slice has changed
  const goTo = (i) => {
    const inside = Math.max(0, Math.min(n - 1, i));
    const moved = inside !== +slider.value || !output.textContent;
    slider.value = inside;
    if (moved) describeSlice();
    return moved;
  };

  const showWindow = () => {
    for (const preset of presets) {
      const pressed = preset.dataset.width === width.value && preset.dataset.level === level.value;
      preset.setAttribute("aria-pressed", pressed);
    }
    drawSoon();
  };

  const keySteps = {
    ArrowUp: 1,
    ArrowRight: 1,
    ArrowDown: -1,
    ArrowLeft: -1,
    PageUp: 5,
    PageDown: -5,
    Home: -n,
    End: n,
  };
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in keySteps) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    goTo(+slider.value + keySteps[event.key]);
  });

  const onWheel = (event) => {
    if (event.ctrlKey || !event.deltaY) return;
    const moved = goTo(+slider.value - Math.sign(event.deltaY));
    if (moved) event.preventDefault(); // at either end the page scrolls on
  };
  canvas.addEventListener("wheel", onWheel, { passive: false });
  slider.addEventListener("input", describeSlice);

  for (const preset of presets) {
    preset.addEventListener("click", () => {
      width.value = preset.dataset.width;
      level.value = preset.dataset.level;
      showWindow();
    });
  }
  for (const field of [width, level]) {
    field.addEventListener("input", () => {
      if (field.value !== "" && field.checkValidity()) showWindow();
    });
  }

  goTo(n >> 1);
  showWindow();
})();
