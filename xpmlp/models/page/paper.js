// The paper: a canvas of 256 × 256 pixels, on which one writes with mouse, pen or finger, or with the keyboard.

const SIZE = 256; // as many as xpmlp predict looks at
const PEN = 20; // pixels wide: as in MNIST, once a character as high as the paper is made small
const FAR = 8; // pixels that an arrow key moves the pen
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Digits to begin with, as strokes of points; a point given twice is a corner. */
const EXAMPLES = {
  0: [[[128, 46], [84, 56], [70, 128], [84, 202], [130, 212], [174, 198], [186, 128], [170, 58], [126, 46]]],
  1: [[[100, 92], [128, 72], [142, 44], [142, 44], [137, 130], [132, 210]]],
  2: [[[78, 92], [86, 46], [140, 38], [180, 66], [166, 118], [112, 164], [70, 206], [70, 206], [130, 200], [190, 206]]],
  3: [[
    [80, 62], [128, 34], [182, 58], [172, 108], [116, 122],
    [116, 122], [186, 130], [190, 192], [134, 220], [72, 198],
  ]],
  4: [[[96, 46], [84, 100], [74, 142], [74, 142], [188, 138]], [[158, 62], [152, 130], [146, 214]]],
  5: [[
    [178, 50], [100, 52], [100, 52], [92, 116], [92, 116],
    [146, 92], [192, 134], [180, 200], [126, 220], [74, 200],
  ]],
  6: [[[160, 42], [108, 74], [74, 140], [82, 206], [134, 218], [180, 192], [172, 144], [124, 132], [84, 166]]],
  7: [[[74, 60], [130, 57], [186, 52], [186, 52], [148, 120], [120, 214]]],
  8: [[
    [174, 66], [132, 34], [82, 62], [100, 110], [160, 144], [186, 190],
    [130, 224], [74, 192], [98, 146], [158, 108], [174, 66],
  ]],
  9: [[[172, 82], [134, 42], [84, 74], [92, 126], [142, 132], [172, 82], [172, 82], [168, 140], [150, 214]]],
};

/**
 * Make a canvas a paper.
 *
 * @param cursor An element that shows where the keyboard's pen is.
 * @param changed Called after each change.
 * @param say Called with what only those who do not see the paper need to be told.
 */
function makePaper(canvas, cursor, changed, say) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const pen = { x: SIZE / 2, y: SIZE / 4, down: false };
  let strokes = [];
  let pointer = null; // the number of the one that is writing

  function draw() {
    context.fillStyle = "#fff";
    context.fillRect(0, 0, SIZE, SIZE);
    context.fillStyle = context.strokeStyle = "#000";
    Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round" });
    for (const [first, ...points] of strokes) {
      // A pen begins a little wider. Were a stroke alike on both sides to the last bit, nothing but the rounding of its
      // sums would say in which of two pixels its middle lies.
      context.beginPath();
      context.arc(...first, PEN / 2 + 0.25, 0, 2 * Math.PI);
      context.fill();
      context.beginPath();
      context.moveTo(...first);
      points.forEach((point, k) => {
        const next = points[k + 1];
        if (next) context.quadraticCurveTo(...point, (point[0] + next[0]) / 2, (point[1] + next[1]) / 2);
        else context.lineTo(...point);
      });
      context.stroke();
    }
    canvas.parentElement.classList.toggle("blank", strokes.length === 0);
    cursor.style.left = `${(100 * pen.x) / SIZE}%`;
    cursor.style.top = `${(100 * pen.y) / SIZE}%`;
    cursor.classList.toggle("down", pen.down);
    changed();
  }

  function placeOf(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * SIZE) / box.width, ((event.clientY - box.top) * SIZE) / box.height];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button > 0) return;
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    pen.down = false;
    strokes.push([placeOf(event)]);
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    strokes.at(-1).push(...(events.length ? events : [event]).map(placeOf));
    draw();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => {
      if (event.pointerId === pointer) pointer = null;
    });
  }

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ARROWS) move(...ARROWS[event.key], event.shiftKey ? 2 : FAR);
    else if (event.key === " ") press();
    else if (event.key === "Backspace") undo();
    else if (event.key === "Delete") clear();
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("blur", () => {
    pen.down = false;
    cursor.classList.remove("down");
  });

  function move(right, down, far) {
    pen.x = Math.min(Math.max(pen.x + right * far, 0), SIZE);
    pen.y = Math.min(Math.max(pen.y + down * far, 0), SIZE);
    if (pen.down) strokes.at(-1).push([pen.x, pen.y]);
    draw();
  }

  function press() {
    pen.down = !pen.down;
    if (pen.down) strokes.push([[pen.x, pen.y]]);
    say(pen.down ? "Pen down" : "Pen up");
    draw();
  }

  function undo() {
    pen.down = false;
    strokes.pop();
    draw();
  }

  function clear() {
    pen.down = false;
    strokes = [];
    draw();
  }

  function example(digit) {
    pen.down = false;
    strokes = EXAMPLES[digit].map((stroke) => [...stroke]);
    draw();
  }

  /** Return the picture's grey values. */
  function picture() {
    const { data } = context.getImageData(0, 0, SIZE, SIZE);
    const values = new Float32Array(SIZE * SIZE);
    for (let i = 0; i < values.length; i++) values[i] = data[4 * i];
    return { height: SIZE, width: SIZE, values };
  }

  return { draw, undo, clear, example, picture };
}
