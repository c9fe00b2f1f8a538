/**
 * Forms that ask people for secrets (2025-11-25 client/elicitation, Security Considerations). However a word is written,
 * with hidden characters, look-alike letters, digits for letters, set apart or encoded, it is that word; and what is asked
 * for in several small fields is asked for.
 */
import { plainForms } from '@sallyport/schema';
import { isObject, objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';

/** A PIN of three digits: what has fewer values is no secret. */
const secretValuesMin = 1_000;

/** Parts of words, in languages that join or inflect them or put no spaces between them; as `plainForms` writes them. */
const stems = [
  'password|passwort|passphras|passcode|passwd|kennwort|wachtwoord|losenord|adgangskode|contrasen|salasan|jelszo|jelszav',
  'credential|credenzial|geheimzahl|geheimnummer|zugangsdaten|anmeldedaten|sicherheitscode|einmalcode',
  'парол|密码|密碼|密钥|密鑰|口令|私钥|私鑰|验证码|驗證碼|助记词|信用卡|银行卡|パスワード|暗証番号|認証コード|秘密鍵|クレジットカード',
  '비밀번호|암호|인증번호|개인키|كلمة المرور|كلمة السر|رمز التحقق|סיסמ|पासवर्ड|รหัสผ่าน',
].join('|');
/** Whole words. */
const words = [
  'pwd|pins?|pincode|secrets?|tokens?|cvv2?|cvc2?|csc|otps?|totp|mfa|2fa|ssn|iban|mnemonics?|identifiants?|passord|kodeord',
  'senhas?|has[lł][oae]m?|hesl[oa]|sifre(?:n?iz\\p{L}*|si\\p{L}*|yi|m)?|пин',
].join('|');
/** Words that mean a secret only together. */
const pairs = [
  '(?:api|private|access|secret|ssh|encryption|signing|recovery|license|security|one time|verification|auth|authentication|login|backup|master|wallet) ?(?:keys?|codes?|answers?)',
  '(?:seed|recovery|secret|backup|pass|wallet) ?(?:phrases?|words?|codes?|keys?)',
  '(?:credit|debit|bank|payment) ?cards?|card ?(?:numbers?|no)|account ?numbers?|social ?security|routing ?numbers?|two factor',
  'mots? de passe|code (?:secret|confidentiel|pin)|cles? (?:api|privees?|secretes?|d acces)|numero de (?:carte|tarjeta|cartao)',
  'clave (?:secreta|privada|personal|de acceso)|(?:su|tu) clave|codigo (?:secreto|de verificacion|de seguridad)|codice (?:segreto|pin|di sicurezza)',
  'parola d ordine|parola segreta|palavra passe|kata sandi|mat khau|(?:geheimer|privater|api) schlussel|kreditkarten? ?nummer',
  'секретн\\p{L}+ (?:код|слово|ключ\\p{L}*)|код подтверждения|κωδικ\\p{L}+ πρόσβασης',
].join('|');
/** `pin1`, `pin2` too. */
const secret = new RegExp(`${stems}| (?:${words}|${pairs})\\d{0,2} `, 'u');

/** What makes a sentence in English that names a secret a demand for it; each of another language counts as one. */
const demand =
  / (?:re ?)?(?:enter|provide|type|give|tell|share|paste|input|supply|submit|confirm|what is|what s|needs?|needed|requires?|required|necessary|must|please|below|here|fields?|send|fill|write|verify|specify|reply|respond|put|goes|insert|disclose|reveal|hand) /;
const isEnglish = / (?:the|your|you|this|that|with|and|it) /;
/** So many words are a label and no sentence. */
const labelWordsMax = 6;

const secretFormats: ReadonlySet<string> = new Set(['password', 'secret', 'credential']);
/** What of a field people are not told, or may choose and not write. */
const untold: ReadonlySet<string> = new Set([
  'type',
  'enum',
  'const',
  'oneOf',
  'anyOf',
  'default',
  'pattern',
  'format',
]);
/** What a form is made of: anything else may bring in fields. */
const formMembers: ReadonlySet<string> = new Set(['$schema', 'type', 'title', 'description', 'properties', 'required']);

/** Whether a form has fields for a secret, by their own words or by what it says of itself as a whole. */
export function asksForSecret(params: JsonObject): boolean {
  const { requestedSchema } = params;
  const schema = isObject(requestedSchema) ? requestedSchema : {};
  const fields = Object.entries(objectMember(schema, 'properties') ?? {});
  const isOther = requestedSchema !== undefined && !isObject(requestedSchema);
  const others = Object.keys(schema).filter((member) => !formMembers.has(member));
  let room = isOther || others.length > 0 ? Number.POSITIVE_INFINITY : 1;
  let named = 1;
  for (const [name, field] of fields) {
    const values = valuesOf(field);
    room *= values;
    if (isSecret(name, field)) named *= values;
  }
  if (others.some((member) => toldTexts(schema[member]).some(namesSecret))) return true;
  if (named >= secretValuesMin) return true;
  const { properties: _fields, ...about } = schema;
  return room >= secretValuesMin && [stringMember(params, 'message') ?? '', ...toldTexts(about)].some(isDemand);
}

/** How many answers a field takes. */
function valuesOf(field: unknown): number {
  if (!isObject(field)) return Number.POSITIVE_INFINITY;
  const { type, minimum, maximum } = field;
  const choices = field['enum'] ?? field['oneOf'];
  if (type !== 'array' && Array.isArray(choices) && choices.length > 0 && choices.every(isChoice))
    return choices.length;
  if (type === 'boolean') return 2;
  const isBounded = type === 'integer' && typeof minimum === 'number' && typeof maximum === 'number';
  return isBounded ? Math.max(1, maximum - minimum + 1) : Number.POSITIVE_INFINITY;
}

function isChoice(choice: unknown): boolean {
  return typeof choice === 'string' || (isObject(choice) && Object.hasOwn(choice, 'const'));
}

function isSecret(name: string, field: unknown): boolean {
  if (isObject(field)) {
    const format = stringMember(field, 'format') ?? '';
    if (secretFormats.has(format.toLowerCase()) || field['writeOnly'] === true) return true;
  }
  return [name, ...toldTexts(field)].some(namesSecret);
}

/** Names of members that nobody knows are told too: some clients may show them. */
function toldTexts(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  if (Array.isArray(value)) return value.flatMap(toldTexts);
  if (!isObject(value)) return [];
  return Object.entries(value).flatMap(([key, child]) => (untold.has(key) ? [] : [key, ...toldTexts(child)]));
}

function namesSecret(text: string): boolean {
  return plainForms(text).some((form) => secret.test(form));
}

function isDemand(text: string): boolean {
  return plainForms(text).some((form) => {
    if (!secret.test(form)) return false;
    return !isEnglish.test(form) || demand.test(form) || form.trim().split(' ').length <= labelWordsMax;
  });
}
