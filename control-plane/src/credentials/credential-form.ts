import { credentialHeaderProblem, type CredentialMode, credentialValueProblem } from '@sallyport/schema';
import type { Violations } from '../database/violations.ts';

const headersMax = 16;

/** What of a credential may be shown, by mode. */
export interface StaticHeadersSettings {
  readonly mode: 'staticHeaders';
  /** As they were given; their values are the secret. */
  readonly headerNames: readonly string[];
}
export type CredentialSettings = StaticHeadersSettings;

export interface CredentialHeader {
  readonly name: string;
  readonly value: string;
}

/** What an administrator gives: exactly one member, which is the mode. */
export interface CredentialInput {
  readonly staticHeaders?: { readonly headers: readonly CredentialHeader[] } | null | undefined;
}

export interface CheckedCredential {
  readonly settings: CredentialSettings;
  /** JSON, to be sealed; null where the mode needs no secret. */
  readonly secret: string | null;
}

const given = ['staticHeaders'] as const satisfies readonly (keyof CredentialInput)[] & readonly CredentialMode[];

/** What was given, or nothing where `found` says what is wrong with it. */
export function checkCredential(found: Violations, input: CredentialInput): CheckedCredential | undefined {
  const modes = given.filter((mode) => input[mode] !== undefined && input[mode] !== null);
  if (modes.length !== 1) {
    found.add('input', `must have exactly one of ${given.join(', ')}`);
    return undefined;
  }
  return input.staticHeaders ? checkHeaders(found, input.staticHeaders.headers) : undefined;
}

function checkHeaders(found: Violations, headers: readonly CredentialHeader[]): CheckedCredential {
  const path = 'input.staticHeaders.headers';
  if (headers.length === 0 || headers.length > headersMax) found.add(path, `must have 1 to ${headersMax} headers`);
  const names = new Set<string>();
  for (const [index, { name, value }] of headers.slice(0, headersMax).entries()) {
    const at = `${path}[${index}]`;
    const nameProblem = credentialHeaderProblem(name);
    if (nameProblem !== undefined) found.add(`${at}.name`, nameProblem);
    if (names.has(name.toLowerCase())) found.add(`${at}.name`, 'is given twice');
    names.add(name.toLowerCase());
    const valueProblem = credentialValueProblem(value);
    if (valueProblem !== undefined) found.add(`${at}.value`, valueProblem);
  }
  return {
    settings: { mode: 'staticHeaders', headerNames: headers.map(({ name }) => name) },
    secret: JSON.stringify(headers.map(({ name, value }) => [name.toLowerCase(), value])),
  };
}
