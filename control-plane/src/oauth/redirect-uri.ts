const uriLengthMax = 2_048;
export const redirectUrisMax = 20;

/** Schemes that a browser would run or read itself. */
const forbiddenSchemes = new Set([
  'about:',
  'blob:',
  'data:',
  'file:',
  'filesystem:',
  'ftp:',
  'javascript:',
  'vbscript:',
  'view-source:',
  'ws:',
  'wss:',
]);

function isLoopbackHost(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '127.0.0.1' || hostname === '[::1]';
}

/**
 * Why codes may not be sent there, or undefined: https, plain http to this machine (RFC 8252 §7.3), or a scheme of an
 * application's own (§7.1). Does not say who answers there.
 */
export function redirectUriProblem(text: string): string | undefined {
  const url = text.length <= uriLengthMax ? URL.parse(text) : null;
  if (url === null) return `must be an absolute URI of at most ${uriLengthMax} characters`;
  if (text.includes('#')) return 'must not have a fragment';
  if (url.username !== '' || url.password !== '') return 'must not hold a user name or password';
  // oxlint-disable-next-line no-control-regex
  if (/[\u0000-\u0020"'`<>\\^{|}]/.test(text)) return 'must not hold spaces, quotes or controls';
  if (forbiddenSchemes.has(url.protocol)) return `must not use the scheme ${url.protocol}`;
  if (url.protocol === 'http:' && !isLoopbackHost(url.hostname)) return 'must be https unless it is on this machine';
  return undefined;
}

/** Whether only whoever owns the host's name can answer there; on loopback or a scheme of its own any program may. */
export function isOwnedRedirect(text: string): boolean {
  return URL.parse(text)?.protocol === 'https:';
}

function withoutLoopbackPort(text: string): string | undefined {
  const url = URL.parse(text);
  if (url === null || url.protocol !== 'http:' || !isLoopbackHost(url.hostname)) return undefined;
  url.port = '';
  return url.href;
}

/** The same address at whatever port, where it is on loopback; any other as it is. */
export function anyLoopbackPort(text: string): string {
  return withoutLoopbackPort(text) ?? text;
}

/** The very string that is registered; on loopback with any port (RFC 8252 §7.3). */
export function redirectUriMatches(registered: readonly string[], asked: string): boolean {
  if (registered.includes(asked)) return true;
  if (redirectUriProblem(asked) !== undefined) return false;
  const portless = withoutLoopbackPort(asked);
  return portless !== undefined && registered.some((one) => withoutLoopbackPort(one) === portless);
}

/** What a person is shown of it: where the code goes. */
export function redirectHost(text: string): string {
  const url = URL.parse(text);
  if (url === null) return text;
  return url.protocol === 'https:' || url.protocol === 'http:' ? url.host : `${url.protocol}//`;
}
