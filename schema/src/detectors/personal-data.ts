import { type Finding, withoutOverlaps } from './finding.ts';
import { TextSigns } from './text-signs.ts';

const cardCandidate = /(?<![\d.,-])\d(?:[ -]?\d){11,18}(?![\d]|[.,]\d)/g;
const ibanCandidate = /(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{2,4}){3,8}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])/g;
const socialSecurityNumber = /(?<![\d-])(?!000|666|9\d\d)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\d-])/g;
const email =
  /(?<![\w.+-])[A-Za-z0-9][\w.+%'-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}[A-Za-z]{2,24}(?![\w-]|\.[A-Za-z])/g;
const ipv4 = /(?<![\w.-])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w-]|\.\d)/g;
const ipv6 =
  /(?<![\w:.])(?:[0-9a-fA-F]{1,4}:){2,7}(?:[0-9a-fA-F]{1,4}|:)(?::[0-9a-fA-F]{1,4}){0,6}(?![\w:])|(?<![\w:.])(?:[0-9a-fA-F]{1,4}:){1,6}:(?:[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){0,5})?(?![\w:])/g;
const internationalPhone =
  /(?<![\w+.]|\d )(?:\+|00)[1-9]\d{0,2}[ .\-/]?(?:\(\d{1,5}\)[ .\-/]?)?\d{1,5}(?:[ .\-/]?\d{1,5}){1,5}(?![\w])/g;
const northAmericanPhone =
  /(?<![\w.+-])(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}([ .-]))[2-9]\d{2}[ .-]\d{4}(?![\w-]|\.\d)/g;
const versionBefore = /(?:version|release|v|ver|build|oid|section|chapter|rev)\.?[ :=]{0,2}$/i;

/** Issuers' prefixes and lengths (ISO/IEC 7812): Visa, Mastercard, American Express, Discover, Diners, JCB, UnionPay, Maestro. */
const cardIssuers: readonly (readonly [RegExp, readonly number[]])[] = [
  [/^4/, [13, 16, 19]],
  [/^(?:5[1-5]|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)/, [16]],
  [/^3[47]/, [15]],
  [/^(?:6011|65|64[4-9]|622)/, [16, 19]],
  [/^(?:30[0-5]|36|38|39)/, [14, 16]],
  [/^35(?:2[89]|[3-8]\d)/, [16, 19]],
  [/^62/, [16, 17, 18, 19]],
  [/^(?:50|5[6-9]|6[37])/, [12, 13, 14, 15, 16, 17, 18, 19]],
];

/** Length of an IBAN by country (SWIFT's registry, release 99). */
const ibanLengths = new Map(
  Object.entries({
    AD: 24,
    AE: 23,
    AL: 28,
    AT: 20,
    AZ: 28,
    BA: 20,
    BE: 16,
    BG: 22,
    BH: 22,
    BI: 27,
    BR: 29,
    BY: 28,
    CH: 21,
    CR: 22,
    CY: 28,
    CZ: 24,
    DE: 22,
    DJ: 27,
    DK: 18,
    DO: 28,
    EE: 20,
    EG: 29,
    ES: 24,
    FI: 18,
    FK: 18,
    FO: 18,
    FR: 27,
    GB: 22,
    GE: 22,
    GI: 23,
    GL: 18,
    GR: 27,
    GT: 28,
    HN: 28,
    HR: 21,
    HU: 28,
    IE: 22,
    IL: 23,
    IQ: 23,
    IS: 26,
    IT: 27,
    JO: 30,
    KW: 30,
    KZ: 20,
    LB: 28,
    LC: 32,
    LI: 21,
    LT: 20,
    LU: 20,
    LV: 21,
    LY: 25,
    MC: 27,
    MD: 24,
    ME: 22,
    MK: 19,
    MN: 20,
    MR: 27,
    MT: 31,
    MU: 30,
    NI: 28,
    NL: 18,
    NO: 15,
    OM: 23,
    PK: 24,
    PL: 28,
    PS: 29,
    PT: 25,
    QA: 29,
    RO: 24,
    RS: 22,
    RU: 33,
    SA: 24,
    SC: 31,
    SD: 18,
    SE: 24,
    SI: 19,
    SK: 24,
    SM: 27,
    SO: 23,
    ST: 25,
    SV: 28,
    TL: 23,
    TN: 24,
    TR: 26,
    UA: 29,
    VA: 22,
    VG: 24,
    XK: 20,
    YE: 30,
  }),
);

/** ISO/IEC 7812-1 annex B. */
function passesLuhn(digits: string): boolean {
  let sum = 0;
  for (let at = digits.length - 1, double = false; at >= 0; at -= 1, double = !double) {
    const digit = digits.charCodeAt(at) - 48;
    const doubled = double ? digit * 2 : digit;
    sum += doubled > 9 ? doubled - 9 : doubled;
  }
  return sum % 10 === 0;
}

function isCard(candidate: string): boolean {
  const digits = candidate.replace(/[ -]/g, '');
  if (/^(\d)\1+$/.test(digits) || !isEvenlyGrouped(candidate)) return false;
  return (
    cardIssuers.some(([prefix, lengths]) => prefix.test(digits) && lengths.includes(digits.length)) &&
    passesLuhn(digits)
  );
}

/** Cards are written without gaps, or in groups of which only the last is short (4-4-4-4, 4-6-5). */
function isEvenlyGrouped(candidate: string): boolean {
  const groups = candidate.split(/[ -]/).map(({ length }) => length);
  return groups.length === 1 || (groups.length <= 5 && groups.every((length) => length >= 3 && length <= 8));
}

/** ISO 13616: the country's length, and 1 as the remainder of division by 97. */
function ibanLength(candidate: string): number | undefined {
  const compact = candidate.replaceAll(' ', '');
  const length = ibanLengths.get(compact.slice(0, 2));
  if (length === undefined || compact.length < length) return undefined;
  const iban = compact.slice(0, length);
  let remainder = 0;
  for (const character of iban.slice(4) + iban.slice(0, 4)) {
    for (const digit of Number.parseInt(character, 36).toString()) remainder = (remainder * 10 + Number(digit)) % 97;
  }
  if (remainder !== 1) return undefined;
  let taken = 0;
  let end = 0;
  while (taken < length) {
    if (candidate[end] !== ' ') taken += 1;
    end += 1;
  }
  return end;
}

function isIpv6(candidate: string): boolean {
  const parts = candidate.split('::');
  if (parts.length > 2) return false;
  const groups = candidate.split(':').filter(Boolean).length;
  if (parts.length === 1) return groups === 8;
  return groups >= 2 && groups <= 7;
}

/** E.164: 7 to 15 digits; without the written groups or a country code it is a number like any other. */
function isPhone(candidate: string): boolean {
  const digits = candidate.replace(/\D/g, '');
  return digits.length >= 8 && digits.length <= 15;
}

type Accept = (candidate: string, before: string) => number | undefined;
const whole =
  (accept: (candidate: string) => boolean): Accept =>
  (candidate) =>
    accept(candidate) ? candidate.length : undefined;

const kinds: readonly {
  readonly category: string;
  /** What nothing of the kind is without: where there is none, which is soon seen, no more is looked at. */
  readonly needs: 'digit' | ':' | '@';
  readonly sign: RegExp;
  readonly pattern: RegExp;
  readonly accept: Accept;
}[] = [
  { category: 'cardNumber', needs: 'digit', sign: /\d(?:[ -]?\d){11}/, pattern: cardCandidate, accept: whole(isCard) },
  { category: 'iban', needs: 'digit', sign: /[A-Z]{2}\d{2}/, pattern: ibanCandidate, accept: ibanLength },
  {
    category: 'socialSecurityNumber',
    needs: 'digit',
    sign: /\d[- ]\d/,
    pattern: socialSecurityNumber,
    accept: whole(() => true),
  },
  { category: 'email', needs: '@', sign: /@/, pattern: email, accept: whole((candidate) => !candidate.includes('..')) },
  {
    category: 'ipAddress',
    needs: 'digit',
    sign: /\d\.\d/,
    pattern: ipv4,
    accept: (candidate, before) => (versionBefore.test(before) ? undefined : candidate.length),
  },
  {
    category: 'ipAddress',
    needs: ':',
    sign: /[0-9a-fA-F]::?[0-9a-fA-F]|::/,
    pattern: ipv6,
    accept: whole(isIpv6),
  },
  { category: 'phoneNumber', needs: 'digit', sign: /\+\d|00\d/, pattern: internationalPhone, accept: whole(isPhone) },
  { category: 'phoneNumber', needs: 'digit', sign: /\d{3}[ .)-]/, pattern: northAmericanPhone, accept: whole(isPhone) },
];

/** What a checksum vouches for comes before what looks like it. */
const categories = kinds.map(({ category }) => category);
export const personalDataCategories: readonly string[] = [...new Set(categories)];

/**
 * Personal data with a form: card numbers (issuer and Luhn), IBANs (length and mod 97), formatted US social security
 * numbers, e-mail and IP addresses, phone numbers with a country code or in North American groups. Names and postal
 * addresses have no form and are not found.
 */
export function findPersonalData(text: string, signs: TextSigns = TextSigns.of(text)): Finding[] {
  const findings: Finding[] = [];
  for (const { category, needs, sign, pattern, accept } of kinds) {
    if (!(needs === 'digit' ? signs.hasDigit : text.includes(needs)) || !sign.test(text)) continue;
    pattern.lastIndex = 0;
    for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
      const start = match.index;
      const length = accept(match[0], text.slice(Math.max(0, start - 12), start));
      if (length === undefined) continue;
      const severity = category === 'email' || category === 'ipAddress' ? 'low' : 'medium';
      findings.push({ detector: 'personalData', category, severity, start, end: start + length });
    }
  }
  return withoutOverlaps(findings, ({ category }) => categories.indexOf(category));
}
