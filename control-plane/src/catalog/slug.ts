export const slugLengthMax = 64;
const slugPattern = /^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$/;

/** The nearest slug to what somebody typed; empty when nothing of it can stand in one. */
function nearestSlug(text: string): string {
  return text
    .normalize('NFKD')
    .toLowerCase()
    .replaceAll(/\p{Mark}/gu, '')
    .replaceAll(/[^a-z0-9]+/g, '-')
    .slice(0, slugLengthMax)
    .replaceAll(/^-+|-+$/g, '');
}

/** What is wrong with a slug, with the nearest right one; undefined when nothing is. */
export function slugProblem(slug: string): string | undefined {
  if (slugPattern.test(slug)) return undefined;
  const nearest = nearestSlug(slug);
  const hint = nearest === '' ? '' : `, for example ${nearest}`;
  return `must be 1 to ${slugLengthMax} lower-case letters a-z, digits and inner hyphens${hint}`;
}

/**
 * What must differ between two servers, so that nobody takes one endpoint for another: compatibility forms, case,
 * separators, and the look-alikes among the letters a slug may have (0 and o, 1 and l, rn and m, vv and w) fold.
 */
export function slugKey(slug: string): string {
  return slug
    .normalize('NFKC')
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '')
    .replaceAll('0', 'o')
    .replaceAll('1', 'l')
    .replaceAll('rn', 'm')
    .replaceAll('vv', 'w');
}
