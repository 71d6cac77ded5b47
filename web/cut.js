// From a photo's file to its cut-out: the same steps as `u2slim cut --srgb`, on the browser's own decoder and encoder.
// Pixels are rows of R, G, B, A in 0..255, as canvases have them; masks are 0..1, or 0..255 once they are alpha.

const NOTHING = .3;  // a net whose mask is nowhere so high sees no subject
const VISIBLE = 26;  // of 255: fainter pixels count for no subject's box
const GROUNDS = [255, 0, 128];  // grays to lay transparency over
const NEAR = 48, MAX_VANISHING = .2;  // so near to the ground colours vanish; of so many, another ground is taken

/** The cut-out of a photo as a file, whether there is a subject, and the net's confidence; throws a sentence. */
export async function cutOut(net, file, asked) {
  const photo = await decoded(file);
  const { width, height, data: own } = photo;
  const seen = opaque(own, width, height);
  const probability = await net.probability(resized(seen, width, height, net.width, net.height));
  if (!probability.every(Number.isFinite)) throw Error("The net gives values that are not finite for this photo.");
  const { small, sure } = stretched(probability);
  const alpha = enlarged(small, net.width, net.height, width, height);
  for (let i = 0; i < alpha.length; i++) alpha[i] = Math.floor(alpha[i] * own[4 * i + 3] / 255);
  const box = subjectBox(alpha, width, height);
  const background = asked.background || (asked.format === "jpeg" ? "white" : "");
  if (background) lay(photo, alpha, ground(background, seen, alpha, width, height));
  else for (let i = 0; i < alpha.length; i++) own[4 * i + 3] = alpha[i];
  const picture = await encoded(photo, asked.format, "crop" in asked && box);
  return { picture, found: box !== null, sure };
}

async function decoded(file) {
  const bitmap = await createImageBitmap(file, { premultiplyAlpha: "none" }).catch(() => {
    throw Error("This is no image that this browser can read; save it as JPEG or PNG.");
  });
  const { width, height } = bitmap;
  try {
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, width, height);
  } catch {
    throw Error(`${width}x${height} pixels are more than this browser can take; make the photo smaller.`);
  } finally {
    bitmap.close();
  }
}

async function encoded(photo, format, box) {
  const [left, top, right, bottom] = box || [0, 0, photo.width, photo.height];
  const canvas = new OffscreenCanvas(right - left, bottom - top);
  canvas.getContext("2d").putImageData(photo, -left, -top);
  const picture = await canvas.convertToBlob({ type: `image/${format}`, quality: format === "jpeg" ? .95 : .9 });
  if (picture.type !== `image/${format}`) throw Error(`This browser writes no ${format} files; choose another format.`);
  return picture;
}

/** What the net sees: the pixels themselves, or over the gray that they stand out from best. */
function opaque(own, width, height) {
  let transparent = false;
  for (let i = 3; i < own.length && !transparent; i += 4) transparent = own[i] < 255;
  if (!transparent) return own;
  const step = Math.max(1, Math.floor(Math.max(width, height) / 512)), near = [0, 0, 0];
  let count = 0;
  for (let y = 0; y < height; y += step) {
    for (let x = 0; x < width; x += step) {
      const i = 4 * (y * width + x);
      if (own[i + 3] < 128) continue;
      count += 1;
      GROUNDS.forEach((gray, k) => {
        near[k] += Math.max(Math.abs(own[i] - gray), Math.abs(own[i + 1] - gray), Math.abs(own[i + 2] - gray)) < NEAR;
      });
    }
  }
  const gray = near[0] <= MAX_VANISHING * count ? 255 : GROUNDS[near.indexOf(Math.min(...near))];
  const seen = new Uint8ClampedArray(own.length);
  for (let i = 0; i < own.length; i += 4) {
    for (let c = 0; c < 3; c++) seen[i + c] = (own[i + c] * own[i + 3] + gray * (255 - own[i + 3])) / 255;
    seen[i + 3] = 255;
  }
  return seen;
}

/** Where the pixels of a side of `to` lie between those of a side of `from`: the nearer ones' numbers, and how far. */
function places(from, to) {
  const before = new Int32Array(to), after = new Int32Array(to), share = new Float32Array(to);
  for (let i = 0; i < to; i++) {
    const at = (i + .5) * from / to - .5, low = Math.floor(at);
    before[i] = Math.min(Math.max(low, 0), from - 1);
    after[i] = Math.min(Math.max(low + 1, 0), from - 1);
    share[i] = at - low;
  }
  return { before, after, share };
}

/** Pixels at another size by linear interpolation without antialiasing, as the net's planes R, G, B of float32. */
export function resized(pixels, width, height, toWidth, toHeight) {
  const x = places(width, toWidth), y = places(height, toHeight), plane = toWidth * toHeight;
  const planes = new Float32Array(3 * plane);
  for (let row = 0; row < toHeight; row++) {
    const above = 4 * width * y.before[row], below = 4 * width * y.after[row], down = y.share[row];
    for (let column = 0; column < toWidth; column++) {
      const left = 4 * x.before[column], right = 4 * x.after[column], along = x.share[column];
      for (let c = 0; c < 3; c++) {
        const upper = pixels[above + left + c] * (1 - along) + pixels[above + right + c] * along;
        const lower = pixels[below + left + c] * (1 - along) + pixels[below + right + c] * along;
        planes[c * plane + row * toWidth + column] = upper * (1 - down) + lower * down;
      }
    }
  }
  return planes;
}

/** The net's mask stretched to 0..1, or all 0 where it sees no subject; and its mean where that is at least a half. */
export function stretched(probability) {
  let low = Infinity, high = -Infinity, sum = 0, count = 0;
  for (const value of probability) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (high < NOTHING) return { small: new Float32Array(probability.length), sure: 0 };
  const small = Float32Array.from(probability, high - low > 1e-6 ? value => (value - low) / (high - low) : value => value);
  small.forEach((value, i) => { if (value >= .5) sum += probability[i], count++; });
  return { small, sure: count ? sum / count : 0 };
}

/** A mask of 0..1 at another size, in 0..255. */
export function enlarged(mask, width, height, toWidth, toHeight) {
  const x = places(width, toWidth), y = places(height, toHeight), alpha = new Uint8ClampedArray(toWidth * toHeight);
  const line = new Float32Array(width);
  for (let row = 0, i = 0; row < toHeight; row++) {
    const above = width * y.before[row], below = width * y.after[row], down = y.share[row];
    for (let k = 0; k < width; k++) line[k] = mask[above + k] * (1 - down) + mask[below + k] * down;
    for (let k = 0; k < toWidth; k++, i++) {
      alpha[i] = 255 * (line[x.before[k]] * (1 - x.share[k]) + line[x.after[k]] * x.share[k]);  // which rounds
    }
  }
  return alpha;
}

/** Left, top, right and bottom of what shows, the last two just outside; null: nothing does. */
export function subjectBox(alpha, width, height) {
  let left = width, top = height, right = 0, bottom = 0;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (alpha[i] < VISIBLE) continue;
      left = Math.min(left, x);
      right = Math.max(right, x + 1);
      top = Math.min(top, y);
      bottom = y + 1;
    }
  }
  return right ? [left, top, right, bottom] : null;
}

/** Lay what is in the mask over a ground, in place. */
function lay(photo, alpha, ground) {
  for (let i = 0; i < alpha.length; i++) {
    for (let c = 0; c < 3; c++) {
      const k = 4 * i + c;
      photo.data[k] = Math.floor((photo.data[k] * alpha[i] + ground[k] * (255 - alpha[i]) + 127) / 255);
    }
    photo.data[4 * i + 3] = 255;
  }
}

/** The pixels of a colour, as the page gives it, or of the photo's own background out of focus. */
function ground(background, seen, alpha, width, height) {
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", { willReadFrequently: true });
  if (background === "blur") context.drawImage(blurred(seen, alpha, width, height), 0, 0, width, height);
  else {
    context.fillStyle = background;
    context.fillRect(0, 0, width, height);
  }
  return context.getImageData(0, 0, width, height).data;
}

/** The photo without its subject, small and out of focus, so that the subject's colours do not run into it. */
function blurred(seen, alpha, width, height) {
  const scale = Math.min(1, 256 / Math.max(width, height));
  const w = Math.max(1, Math.round(width * scale)), h = Math.max(1, Math.round(height * scale));
  const sums = new Float32Array(4 * w * h);  // of the colours by the background's share in each, and of the shares
  for (let y = 0, i = 0; y < height; y++) {
    const row = Math.min(h - 1, Math.floor(y * scale)) * w;
    for (let x = 0; x < width; x++, i++) {
      const to = 4 * (row + Math.min(w - 1, Math.floor(x * scale)));
      const share = 1.001 - alpha[i] / 255;  // where there is nothing but subject, its own colours are better than none
      for (let c = 0; c < 3; c++) sums[to + c] += seen[4 * i + c] * share;
      sums[to + 3] += share;
    }
  }
  const both = smooth(smooth(sums, w, h, 4, 4 * w), h, w, 4 * w, 4);
  const small = new ImageData(w, h);
  for (let i = 0; i < w * h; i++) {
    for (let c = 0; c < 3; c++) small.data[4 * i + c] = both[4 * i + c] / both[4 * i + 3];
    small.data[4 * i + 3] = 255;
  }
  const canvas = new OffscreenCanvas(w, h);
  canvas.getContext("2d").putImageData(small, 0, 0);
  return canvas;
}

/** A Gaussian of a fiftieth of the longer side along lines of `length` pixels, `step` apart; lines are `next` apart. */
function smooth(values, length, lines, step, next) {
  const sigma = Math.max(.5, .02 * Math.max(length, lines)), reach = Math.ceil(3 * sigma);
  const weights = Array.from({ length: 2 * reach + 1 }, (_, k) => Math.exp(-((k - reach) ** 2) / (2 * sigma * sigma)));
  const result = new Float32Array(values.length);
  for (let line = 0; line < lines; line++) {
    for (let k = 0; k < length; k++) {
      const to = line * next + k * step;
      for (let d = -reach; d <= reach; d++) {
        const from = line * next + Math.min(Math.max(k + d, 0), length - 1) * step;
        for (let c = 0; c < 4; c++) result[to + c] += weights[d + reach] * values[from + c];
      }
    }
  }
  return result;
}
