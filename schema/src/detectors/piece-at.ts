/**
 * Index of the last of a text's pieces that begins at `at` or before; 0 where none does.
 * @param pieces one behind the other, each with where it begins
 */
export function pieceAt(pieces: readonly { readonly at: number }[], at: number): number {
  let low = 0;
  let high = pieces.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((pieces[middle]?.at ?? 0) <= at) low = middle;
    else high = middle - 1;
  }
  return low;
}
