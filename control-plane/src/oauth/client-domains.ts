/**
 * Whether clients may be named by the URL of a metadata document there. A domain stands for itself, `*.domain` for
 * every name below it, `*` for all; an empty list allows none.
 */
export function isAllowedClientHost(domains: readonly string[], clientId: string): boolean {
  const url = URL.parse(clientId);
  if (url === null || url.protocol !== 'https:' || url.username !== '' || url.password !== '') return false;
  const host = url.hostname.toLowerCase().replace(/\.$/, '');
  return domains.some((domain) => {
    if (domain === '*') return true;
    return domain.startsWith('*.') ? host.endsWith(domain.slice(1)) : host === domain;
  });
}

/** What is wrong with an entry of the list, or undefined. */
export function clientDomainProblem(domain: string): string | undefined {
  const isRight =
    domain === '*' || /^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/.test(domain);
  return isRight ? undefined : 'must be a domain in lower case, *.domain for all below it, or * for any';
}
