// Tells the code points that patterns take, in a regular expression with the flag "u", as JSON Schema asks.
//
// Standard input: an array of ["before", "pattern", "after"].
// Standard output: for each of them the ranges [first, last] of the code points that match between the two texts.

import { readFileSync } from "node:fs";

function taken(before, pattern, after) {
  const expression = new RegExp(pattern, "u");
  const ranges = [];
  for (let point = 0; point <= 0x10ffff; point++) {
    if (!expression.test(before + String.fromCodePoint(point) + after)) continue;
    const last = ranges.at(-1);
    if (last !== undefined && last[1] === point - 1) last[1] = point;
    else ranges.push([point, point]);
  }
  return ranges;
}

process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map((one) => taken(...one))));
