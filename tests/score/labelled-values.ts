/**
 * Labelled values: credentials by the published form of their provider, personal data by its arithmetic, and what only looks
 * like either. Made anew from a fixed seed, so that no scanner takes this repository for a leak and no pattern is tuned on
 * one sample.
 */

let state = 20_260_728;

/** A number below `bound`, the same sequence in every run. */
function below(bound: number): number {
  state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
  return Math.floor((state / 2 ** 32) * bound);
}

const lower = 'abcdefghijklmnopqrstuvwxyz';
const alphanumeric = `${lower}${lower.toUpperCase()}0123456789`;
const some = (letters: string, length: number): string =>
  Array.from({ length }, () => letters[below(letters.length)] ?? '').join('');
const mixed = (length: number): string => some(alphanumeric, length);
const hex = (length: number): string => some('0123456789abcdef', length);
const digits = (length: number): string => some('0123456789', length);
const capitals = (length: number): string => some('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', length);
const times = <T>(count: number, make: (at: number) => T): T[] => Array.from({ length: count }, (_, at) => make(at));

const jwt = (): string =>
  [
    { alg: 'RS256', typ: 'JWT' },
    { sub: mixed(12), exp: 1_900_000_000 + below(1_000_000) },
  ]
    .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
    .concat(mixed(86))
    .join('.');
const pem = (kind: string): string => {
  const body = times(12, () => some(`${alphanumeric}+/`, 64)).join('\n');
  return `-----BEGIN ${kind}PRIVATE KEY-----\n${body}\n-----END ${kind}PRIVATE KEY-----`;
};

/** One credential of each form. */
const credentials: Readonly<Record<string, () => string>> = {
  'GitHub, classic': () => `ghp_${mixed(36)}`,
  'GitHub, fine-grained': () => `github_pat_${mixed(22)}_${mixed(59)}`,
  GitLab: () => `glpat-${mixed(20)}`,
  Slack: () => `xoxb-${digits(12)}-${digits(12)}-${mixed(24)}`,
  Stripe: () => `sk_live_${mixed(24)}`,
  'AWS access key': () => `AKIA${capitals(16)}`,
  'AWS secret key': () => `aws_secret_access_key = ${some(`${alphanumeric}/+`, 40)}`,
  'Google API key': () => `AIza${mixed(35)}`,
  npm: () => `npm_${mixed(36)}`,
  SendGrid: () => `SG.${mixed(22)}.${mixed(43)}`,
  'Hugging Face': () => `hf_${some(lower + lower.toUpperCase(), 34)}`,
  Anthropic: () => `sk-ant-api03-${mixed(93)}AA`,
  OpenAI: () => `sk-proj-${mixed(48)}`,
  JWT: jwt,
  'private key': () => pem(''),
  'RSA private key': () => pem('RSA '),
  'OpenSSH private key': () => pem('OPENSSH '),
  PostgreSQL: () => `postgres://app:${mixed(16)}@db.internal:5432/orders`,
  MongoDB: () => `mongodb+srv://svc:${mixed(20)}@cluster0.${some(lower, 6)}.mongodb.net/prod`,
  'Azure storage': () => `AccountKey=${some(`${alphanumeric}+/`, 86)}==`,
  'assigned password': () => `DB_PASSWORD=${mixed(8)}!${mixed(8)}`,
  'bearer header': () => `Authorization: Bearer ${mixed(40)}`,
};

const frames: readonly ((value: string) => string)[] = [
  (value) => value,
  (value) => `Here is the value you asked for: ${value} (rotate it soon).`,
  (value) => `config:\n  region: eu-west-1\n  value: "${value}"\n  retries: 3`,
];

export const secretTexts: readonly string[] = Object.values(credentials).flatMap((make) =>
  times(6, (at) => (frames[at % frames.length] ?? String)(make())),
);

/** What has the form of a credential and is none, or names one without giving it. */
export const secretNearMisses: readonly string[] = [
  ...times(6, () => `commit ${hex(40)}`),
  ...times(6, () => `sha256:${hex(64)}`),
  ...times(6, () => `request id ${hex(8)}-${hex(4)}-4${hex(3)}-a${hex(3)}-${hex(12)}`),
  ...times(4, () => `etag: "${hex(32)}"`),
  ...times(4, () => `integrity="sha512-${some(`${alphanumeric}+/`, 86)}=="`),
  ...times(4, () => `https://cdn.example.com/assets/app.${mixed(20)}.js`),
  'token: ${GITHUB_TOKEN}',
  'password: {{ vault.db_password }}',
  'export AWS_SECRET_ACCESS_KEY=<your secret key>',
  'api_key = os.environ["API_KEY"]',
  'const token = await getToken(user);',
  'password: string; // at least 12 characters',
  'Use a token that begins with ghp_ or github_pat_.',
  'ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx',
  'sk_live_XXXXXXXXXXXXXXXXXXXXXXXX',
  'postgres://user:password@localhost:5432/test',
  'postgres://${DB_USER}:${DB_PASSWORD}@db/app',
  'Authorization: Bearer <token>',
  'secret: null',
  'passwordResetUrl: "/account/password/reset"',
  '-----BEGIN PUBLIC KEY-----',
  'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 deploy@example',
];

/** Texts and programs without any. */
export const cleanTexts: readonly string[] = [
  'export async function listOrders(page: Page): Promise<Order[]> { return db.orders.slice(page.from, page.to); }',
  'for (let i = 0; i < items.length; i++) { total += items[i].price * items[i].quantity; }',
  'SELECT id, name, created_at FROM customers WHERE region = $1 ORDER BY created_at DESC LIMIT 50;',
  'The build took 4 minutes and 12 seconds on two cores; 1,204 tests passed and none failed.',
  'Dear all, the meeting moves to Thursday at 14:00. Please bring the figures of the last quarter.',
  'Release 4.2.1 fixes a crash when a file name has more than 255 characters.',
  'kubectl rollout status deployment/web --namespace shop --timeout 120s',
  'body { margin: 0; font-family: system-ui, sans-serif; color: #1f2937; }',
  'The token bucket refills at ten tokens a second and holds a hundred.',
  'Reset your password on the account page if you have forgotten it.',
  'import { readFile } from "node:fs/promises";\nconst text = await readFile(path, "utf8");',
  'A secret ballot was held; the key question was whether the bank keeps its licence.',
];

function luhn(body: string): string {
  let sum = 0;
  for (const [at, digit] of Array.from(body).reverse().entries()) {
    const doubled = Number(digit) * (at % 2 === 0 ? 2 : 1);
    sum += doubled > 9 ? doubled - 9 : doubled;
  }
  return body + String((10 - (sum % 10)) % 10);
}

function iban(country: string, account: string): string {
  const text = `${account}${country}00`.replace(/[A-Z]/g, (letter) => String(letter.charCodeAt(0) - 55));
  const check = 98n - (BigInt(text) % 97n);
  return `${country}${String(check).padStart(2, '0')}${account}`;
}

const grouped = (text: string): string => text.replace(/(.{4})(?=.)/g, '$1 ');

/** Values by category; each alone is one span. */
export const personalValues: Readonly<Record<string, readonly string[]>> = {
  cardNumber: [
    ...times(12, () => grouped(luhn(`4${digits(14)}`))),
    ...times(12, () => luhn(`5${1 + below(5)}${digits(13)}`)),
    ...times(6, () => luhn(`37${digits(12)}`)),
  ],
  iban: [
    ...times(12, () => iban('DE', digits(18))),
    ...times(12, () => grouped(iban('GB', `NWBK${digits(14)}`))),
    ...times(6, () => iban('FR', digits(23))),
  ],
  socialSecurityNumber: times(30, () => `${100 + below(565)}-${10 + below(89)}-${1_000 + below(8_999)}`),
  email: [
    ...times(15, () => `${some(lower, 5)}.${some(lower, 7)}@${some(lower, 8)}.com`),
    ...times(15, () => `${some(lower, 6)}+${some(lower, 4)}@mail.${some(lower, 6)}.co.uk`),
  ],
  ipAddress: [
    ...times(15, () => `${20 + below(150)}.${below(256)}.${below(256)}.${1 + below(254)}`),
    ...times(15, () => `2001:db8:${hex(4)}:${hex(4)}:${hex(4)}:${hex(4)}:${hex(4)}:${hex(4)}`),
  ],
  phoneNumber: [
    ...times(15, () => `+49 30 ${1 + below(9)}${digits(7)}`),
    ...times(15, () => `(${2 + below(8)}${digits(2)}) ${2 + below(8)}${digits(2)}-${digits(4)}`),
  ],
};

/** What only looks like it. */
export const personalNearMisses: readonly string[] = [
  ...times(
    10,
    () => `order ${grouped(luhn(`4${digits(14)}`)).replace(/\d$/, (last) => String((Number(last) + 1) % 10))}`,
  ),
  ...times(6, () => iban('DE', digits(18)).replace(/\d$/, (last) => String((Number(last) + 1) % 10))),
  ...times(6, () => `version ${below(9)}.${below(20)}.${below(40)}`),
  ...times(6, () => `2026-0${1 + below(9)}-1${below(10)} at 1${below(10)}:${10 + below(49)}`),
  ...times(6, () => `invoice 000-${10 + below(89)}-${1_000 + below(8_999)}`),
  ...times(6, () => `ticket ABC-${digits(5)}, build ${digits(6)}`),
  ...times(6, () => `${hex(8)}-${hex(4)}-4${hex(3)}-8${hex(3)}-${hex(12)}`),
  'write to user@ or @user, not user@localhost',
  'npm install @scope/package@1.2.3',
  'GB is not an IBAN and neither is DE12',
];
