// What tells whether a graphics card computes the net rightly.
// upstream: https://github.com/microsoft/onnxruntime/issues/29651: onnxruntime-web 1.30 computes 3x3 convolutions of 9,
// 15, 18, … channels wrongly on every graphics card. Drop the check when no runtime or driver does such a thing.

/** A disc on a ground that grows lighter, as planes R, G, B of 0..255. */
export function testPicture(height, width) {
  const plane = height * width, planes = new Float32Array(3 * plane);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const inside = Math.hypot(y / height - .5, x / width - .4) < .25;
      [210, 60, 40].forEach((level, c) => { planes[c * plane + y * width + x] = inside ? level : 90 + 60 * y / height; });
    }
  }
  return planes;
}

/** Every twentieth value of a mask, along both sides. */
export function sampled(mask, height, width) {
  const values = [];
  for (let y = 10; y < height; y += 20) for (let x = 10; x < width; x += 20) values.push(mask[y * width + x]);
  return values;
}

/** Whether two of these are the same but for rounding. */
export function same(values, expected) {
  return values.every((value, i) => Math.abs(value - expected[i]) < .02);
}
