import { type Finding, type FindingSeverity, withoutOverlaps } from './finding.ts';
import { TextSigns } from './text-signs.ts';

/** How the string of a credential is told from others that look alike. */
interface SecretKind {
  readonly category: string;
  /**
   * Of these its text has one at least; looked for first, since nearly no text has any. In lower case where the expression
   * ignores case, and then looked for in any.
   */
  readonly signs: readonly string[];
  readonly pattern: RegExp;
  readonly severity: FindingSeverity;
  /** Bits per character that the matched value must have at least: a placeholder has less. */
  readonly entropyMin?: number;
}

// Formats as their providers document them. Each expression begins with a literal and has no nested repetition, so that
// its time is linear. A group named `value` is the secret where the match has more than that.
export const secretKinds: readonly SecretKind[] = [
  {
    category: 'awsAccessKeyId',
    signs: ['AKIA', 'ASIA', 'ABIA', 'ACCA'],
    pattern: /(?<![A-Za-z0-9])(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}(?![A-Za-z0-9])/g,
    severity: 'high',
    entropyMin: 2.6,
  },
  {
    category: 'awsSecretAccessKey',
    signs: ['aws', 'secret'],
    pattern:
      /(?:aws|secret)[a-z_. -]{0,24}(?:key|access)[a-z_ -]{0,8}["']?\s{0,4}(?::|=>|=|,)\s{0,4}["']?(?<value>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])/gi,
    severity: 'critical',
    entropyMin: 4,
  },
  {
    category: 'githubToken',
    signs: ['ghp_', 'gho_', 'ghu_', 'ghs_', 'ghr_', 'github_pat_'],
    pattern:
      /(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})(?![A-Za-z0-9])/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'gitlabToken',
    signs: ['glpat-', 'gldt-', 'glrt-', 'glptt-', 'glcbt-', 'glsoat-', 'glagent-'],
    pattern: /(?<![A-Za-z0-9])gl(?:pat|dt|rt|ptt|cbt|soat|agent)-[A-Za-z0-9_-]{20,64}(?:\.[a-z0-9.]{2,20})?/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'slackToken',
    signs: ['xox', 'xapp-', 'xoxe'],
    pattern:
      /(?<![A-Za-z0-9])(?:xox[abposre](?:\.xox[bp])?-(?:\d-)?[A-Za-z0-9-]{10,250}|xapp-\d-[A-Z0-9]{8,14}-\d{8,16}-[a-f0-9]{64})/g,
    severity: 'critical',
    entropyMin: 2.8,
  },
  {
    category: 'slackWebhook',
    signs: ['hooks.slack.com'],
    pattern:
      /hooks\.slack\.com\/(?:services|workflows|triggers)\/T[A-Z0-9]{6,14}\/[A-Z]?[A-Z0-9]{6,14}\/[A-Za-z0-9]{16,64}/g,
    severity: 'high',
  },
  {
    category: 'anthropicKey',
    signs: ['sk-ant-'],
    pattern: /(?<![A-Za-z0-9])sk-ant-[a-z0-9]{2,12}-[A-Za-z0-9_-]{32,200}/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'openaiKey',
    signs: ['sk-'],
    pattern:
      /(?<![A-Za-z0-9])sk-(?:(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{32,200}|(?:proj-)?[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}|[A-Za-z0-9]{48})(?![A-Za-z0-9])/g,
    severity: 'critical',
    entropyMin: 3.2,
  },
  {
    category: 'stripeKey',
    signs: ['sk_live_', 'sk_test_', 'rk_live_', 'rk_test_', 'whsec_'],
    pattern: /(?<![A-Za-z0-9])(?:[sr]k_(?:live|test)_[A-Za-z0-9]{16,247}|whsec_[A-Za-z0-9+/]{32,88}={0,2})/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'googleApiKey',
    signs: ['AIza'],
    pattern: /(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])/g,
    severity: 'high',
    entropyMin: 3,
  },
  {
    category: 'googleOauthSecret',
    signs: ['GOCSPX-', 'ya29.', '1//0'],
    pattern: /(?<![A-Za-z0-9])(?:GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{30,300}|1\/\/0[A-Za-z0-9_-]{30,120})/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'azureKey',
    signs: ['AccountKey=', 'SharedAccessKey=', 'sig='],
    pattern:
      /(?:AccountKey|SharedAccessKey)=(?<value>[A-Za-z0-9+/]{43}={0,2}|[A-Za-z0-9+/]{86}={0,2})|[?&]sig=(?<signature>[A-Za-z0-9%]{43,80}(?:%3D|=))/g,
    severity: 'critical',
    entropyMin: 3.5,
  },
  {
    category: 'azureClientSecret',
    signs: ['Q~'],
    pattern: /(?<![A-Za-z0-9])[A-Za-z0-9_~.-]{3}\dQ~[A-Za-z0-9_~.-]{31,34}(?![A-Za-z0-9_~.-])/g,
    severity: 'critical',
    entropyMin: 3.5,
  },
  {
    category: 'npmToken',
    signs: ['npm_'],
    pattern: /(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'pypiToken',
    signs: ['pypi-'],
    pattern: /(?<![A-Za-z0-9])pypi-[A-Za-z0-9_-]{50,300}/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'dockerToken',
    signs: ['dckr_'],
    pattern: /(?<![A-Za-z0-9])dckr_(?:pat|oat)_[A-Za-z0-9_-]{24,40}/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'huggingFaceToken',
    signs: ['hf_', 'api_org_'],
    pattern: /(?<![A-Za-z0-9])(?:hf_[A-Za-z]{30,40}|api_org_[A-Za-z]{34})(?![A-Za-z0-9])/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'sendgridKey',
    signs: ['SG.'],
    pattern: /(?<![A-Za-z0-9])SG\.[A-Za-z0-9_-]{20,24}\.[A-Za-z0-9_-]{39,50}/g,
    severity: 'critical',
    entropyMin: 3.2,
  },
  {
    category: 'twilioKey',
    signs: ['SK'],
    pattern: /(?<![A-Za-z0-9])SK[0-9a-f]{32}(?![A-Za-z0-9])/g,
    severity: 'high',
    entropyMin: 3,
  },
  {
    category: 'mailgunKey',
    signs: ['key-'],
    pattern: /(?<![A-Za-z0-9-])key-[0-9a-f]{32}(?![A-Za-z0-9])/g,
    severity: 'high',
    entropyMin: 3,
  },
  {
    category: 'shopifyToken',
    signs: ['shpat_', 'shpca_', 'shppa_', 'shpss_'],
    pattern: /(?<![A-Za-z0-9])shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}(?![A-Za-z0-9])/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'digitalOceanToken',
    signs: ['dop_v1_', 'doo_v1_', 'dor_v1_'],
    pattern: /(?<![A-Za-z0-9])do[opr]_v1_[0-9a-f]{64}(?![A-Za-z0-9])/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'databricksToken',
    signs: ['dapi'],
    pattern: /(?<![A-Za-z0-9])dapi[0-9a-f]{32}(?:-\d)?(?![A-Za-z0-9])/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'hashicorpToken',
    signs: ['hvs.', 'hvb.', 'hvr.', '.atlasv1.'],
    pattern: /(?<![A-Za-z0-9])(?:hv[sbr]\.[A-Za-z0-9_-]{24,300}|[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,70})/g,
    severity: 'critical',
    entropyMin: 3.2,
  },
  {
    category: 'linearKey',
    signs: ['lin_api_', 'ntn_', 'secret_'],
    pattern:
      /(?<![A-Za-z0-9])(?:lin_api_[A-Za-z0-9]{40}|ntn_[0-9]{11}[A-Za-z0-9]{35}|secret_[A-Za-z0-9]{43})(?![A-Za-z0-9])/g,
    severity: 'critical',
    entropyMin: 3.2,
  },
  {
    category: 'atlassianToken',
    signs: ['ATATT3', 'ATCTT3', 'ATBB'],
    pattern: /(?<![A-Za-z0-9])(?:AT[AC]TT3[A-Za-z0-9_=-]{60,220}|ATBB[A-Za-z0-9]{32})/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'serviceToken',
    signs: [
      'figd_',
      'PMAK-',
      'NRAK-',
      'sntrys_',
      'phx_',
      'pul-',
      'rubygems_',
      'glc_',
      'glsa_',
      'sbp_',
      'rnd_',
      'fo1_',
      'FlyV1',
    ],
    pattern:
      /(?<![A-Za-z0-9])(?:figd_[A-Za-z0-9_-]{38,44}|PMAK-[0-9a-f]{24}-[0-9a-f]{34}|NRAK-[A-Z0-9]{27}|sntrys_[A-Za-z0-9_=+/-]{40,200}|phx_[A-Za-z0-9_-]{40,60}|pul-[0-9a-f]{40}|rubygems_[0-9a-f]{48}|glc_[A-Za-z0-9+/]{32,200}={0,2}|glsa_[A-Za-z0-9]{32}_[0-9a-f]{8}|sbp_[0-9a-f]{40}|rnd_[A-Za-z0-9]{28,40}|fo1_[A-Za-z0-9_-]{43}|FlyV1 fm[12][ar]?_[A-Za-z0-9+/=]{60,500})/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'telegramToken',
    signs: [':AA'],
    pattern: /(?<![A-Za-z0-9])\d{8,10}:AA[A-Za-z0-9_-]{32,34}(?![A-Za-z0-9_-])/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'discordToken',
    signs: ['.'],
    pattern: /(?<![A-Za-z0-9_-])[MNO][A-Za-z\d_-]{23,27}\.[A-Za-z\d_-]{6}\.[A-Za-z\d_-]{27,40}(?![A-Za-z0-9_-])/g,
    severity: 'critical',
    entropyMin: 3.5,
  },
  {
    category: 'sallyportKey',
    signs: ['sp_'],
    pattern: /(?<![A-Za-z0-9])sp_[A-Za-z0-9_-]{32,200}/g,
    severity: 'critical',
    entropyMin: 3,
  },
  {
    category: 'privateKey',
    signs: ['PRIVATE KEY', 'PuTTY-User-Key-File', 'AGE-SECRET-KEY-1'],
    pattern:
      /-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:[^-]{20,16384}-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----|[^-]{40,16384})|PuTTY-User-Key-File-[23]:[^\n]{0,80}\n|AGE-SECRET-KEY-1[A-Z0-9]{58}/g,
    severity: 'critical',
  },
  {
    category: 'jsonWebToken',
    signs: ['eyJ'],
    pattern: /(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,1024}\.eyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{16,1024}/g,
    severity: 'high',
    entropyMin: 3.5,
  },
  {
    category: 'connectionString',
    signs: ['://'],
    pattern:
      /\b(?:postgres(?:ql)?|mysql|mariadb|mongodb(?:\+srv)?|rediss?|amqps?|mssql|sqlserver|clickhouse|cockroachdb|ftps?|sftp|ldaps?|smtps?|nats|kafka|https?|ssh|git\+https):\/\/[^\s:/?#@"'<>]{0,128}:(?<value>[^\s/?#@"'<>]{3,256})@[^\s"'<>]{3,256}/gi,
    severity: 'critical',
  },
  {
    category: 'connectionString',
    signs: ['password=', 'pwd='],
    pattern:
      /\b(?:Server|Data Source|Host|Hostname|Endpoint|DSN|Driver)=[^;\n"']{2,200};(?:[^;\n"']{1,200};){0,12}\s?(?:Password|Pwd)=(?<value>[^;\n"']{3,128})/gi,
    severity: 'critical',
  },
  {
    category: 'basicAuthorization',
    signs: ['basic '],
    pattern: /\bauthorization["']?\s{0,3}[:=]\s{0,3}["']?basic (?<value>[A-Za-z0-9+/]{12,256}={0,2})/gi,
    severity: 'high',
    entropyMin: 3,
  },
  {
    category: 'bearerToken',
    signs: ['bearer '],
    pattern: /\bbearer (?<value>[A-Za-z0-9_.~+/-]{24,2048}={0,2})/gi,
    severity: 'high',
    entropyMin: 3.6,
  },
  {
    category: 'assignedSecret',
    signs: [
      'passw',
      'passphrase',
      'pwd',
      'secret',
      'token',
      'apikey',
      'api_key',
      'api-key',
      'accesskey',
      'access_key',
      'access-key',
      'privatekey',
      'private_key',
      'private-key',
    ],
    pattern:
      /(?<![A-Za-z])(?:[a-z0-9]{1,24}[_.-]){0,4}(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|client[_-]?secret|auth[_-]?token)(?:[_.-][a-z0-9]{1,16}){0,2}["'`]?\s{0,3}(?::=|=>|[:=])\s{0,3}["'`]?(?<value>[^\s"'`,;<>(){}[\]]{8,256})/gi,
    severity: 'high',
    entropyMin: 3,
  },
];

/** Words that stand where a secret would in examples. */
const placeholder =
  /^(?:x+|\*+|\.+|-+|_+|0+|1234567890?|(?:your|my|the|some|insert|enter|add|change|replace|put|use)[-_ ].*|.*(?:example|placeholder|changeme|change_me|dummy|sample|redacted|masked|todo|fixme|undefined|foobar|lorem|deadbeef|notreal|not-real|fake).*|<.*>|\$\{?[a-z_].*|\{\{.*|%[a-z_].*|process\.env.*|os\.environ.*|os\.getenv.*|env\..*|secrets?\..*|vault:.*|arn:aws:.*|null|none|true|false|string|required|optional)$/i;
const runOfOne = /(.)\1{7,}/;
const sequence = /(?:abcdefgh|12345678|qwertyui|0123456789abcdef)/i;

/** Shannon's, in bits per character. */
function entropy(value: string): number {
  const counts = new Map<string, number>();
  for (const character of value) counts.set(character, (counts.get(character) ?? 0) + 1);
  let bits = 0;
  for (const count of counts.values()) bits -= (count / value.length) * Math.log2(count / value.length);
  return bits;
}

/** Identifiers, paths, versions and words: what else stands behind `token:` in code and prose. */
function looksOrdinary(value: string): boolean {
  if (/^[a-z]+(?:[A-Z][a-z]+)*\.?$/.test(value) || /^[A-Za-z]+(?:[._-][A-Za-z]+)+\.?$/.test(value)) return true;
  if (/^[a-z_.]+\(?$/i.test(value) && entropy(value) < 3.6) return true;
  if (/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i.test(value)) return true;
  if (/^(?:https?:)?\/\/|^\.{0,2}\/|^[a-z]:\\/i.test(value)) return true;
  if (/^\d+(?:[.,:/-]\d+)*$/.test(value)) return true;
  return /^(?:sha(?:1|256|512)[:-]|md5[:-])/i.test(value);
}

function isSecret(kind: SecretKind, value: string): boolean {
  if (placeholder.test(value) || runOfOne.test(value)) return false;
  if (kind.entropyMin !== undefined && entropy(value) < kind.entropyMin) return false;
  if (kind.category !== 'assignedSecret') return true;
  if (sequence.test(value)) return false;
  const classes = [/[a-z]/, /[A-Z]/, /\d/, /[^A-Za-z0-9]/].filter((one) => one.test(value)).length;
  return classes >= 2 && !looksOrdinary(value);
}

/** Whether a text may have what the kind's expression finds. A no is sure. */
export function isSigned({ signs, pattern }: SecretKind, text: TextSigns): boolean {
  return pattern.ignoreCase ? text.hasOneOfInAnyCase(signs) : text.hasOneOf(signs);
}

/**
 * Credentials in a text: keys and tokens of known providers by their documented formats, private keys, connection
 * strings, and values assigned to names such as `password`. Placeholders, identifiers and digests are told apart by
 * their form and entropy; a password that is a plain word is not found.
 */
export function findSecrets(text: string, signs: TextSigns = TextSigns.of(text)): Finding[] {
  const findings: RankedFinding[] = [];
  for (const [rank, kind] of secretKinds.entries()) {
    if (!isSigned(kind, signs)) continue;
    kind.pattern.lastIndex = 0;
    for (let match = kind.pattern.exec(text); match !== null; match = kind.pattern.exec(text)) {
      const value = match.groups?.['value'] ?? match.groups?.['signature'] ?? match[0];
      if (!isSecret(kind, value)) continue;
      const start = match.index + match[0].lastIndexOf(value);
      const { category, severity } = kind;
      findings.push({ detector: 'secret', category, severity, start, end: start + value.length, rank });
    }
  }
  // The more exact kinds come first.
  return withoutOverlaps(findings, ({ rank }) => rank).map(({ detector, category, severity, start, end }) => ({
    detector,
    category,
    severity,
    start,
    end,
  }));
}

interface RankedFinding extends Finding {
  readonly rank: number;
}

export const secretCategories: readonly string[] = [...new Set(secretKinds.map(({ category }) => category))];
