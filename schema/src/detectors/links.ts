import { type Finding, withoutOverlaps } from './finding.ts';
import type { TextSigns } from './text-signs.ts';

/** Loaded by whoever shows the text, without a click: Markdown images and what HTML loads by itself. */
const loadedByItself =
  /!\[[^\][\n]{0,512}\]\(\s{0,8}<?(?<image>[^\s)<>]{4,4096})|<(?:img|iframe|object|embed|script|link|video|audio|source|input|form|body|svg|image|meta)\b[^<>]{0,512}?\b(?:src|href|data|action|background|srcset|url)\s{0,4}=\s{0,4}["']?(?<element>[^\s"'<>]{4,4096})|\burl\(\s{0,4}["']?(?<style>https?:[^\s"')<>]{4,4096})/gi;
/** References of Markdown whose address stands elsewhere: `![a][b]` … `[b]: https://…`. */
const reference = /^ {0,3}\[[^\]\n]{1,128}\]:\s{0,8}<?(?<target>https?:[^\s<>]{4,4096})/gim;
const dangerousScheme =
  /\b(?:javascript|vbscript|livescript)\s{0,4}:[^\s"'<>]{1,512}|\bdata:(?:text\/html|image\/svg\+xml|application\/(?:xhtml\+xml|javascript))[;,][^\s"'<>)]{1,4096}/gi;
/** What whatever that finds has, in whichever case. */
const dangerousSigns = ['script', 'data:'];
const styleSigns = ['url('];
const anyAddress = /\bhttps?:\/\/(?:[^\s"'<>)\]]|<[a-z][\w -]{1,60}>){4,2048}/gi;
/** Where a model is meant to put something in. */
const slot =
  /\{\{?[^{}\n]{1,80}\}?\}|<[a-z][\w -]{1,60}>|\$\{[^}\n]{1,80}\}|%7b[^%\n]{1,80}%7d|\[(?:[a-z][\w -]{2,60})\]|(?:conversation|secret|password|token|history|data|content|prompt)[_-]?(?:here|goes)|(?:your|the|user)[_-](?:data|secret|token|conversation|messages?|prompt)/i;
const longValue = /[?&#/=][A-Za-z0-9+/_%=-]{64,}/;
const userInfo = /^https?:\/\/[^/?#@\s]{1,256}@/i;

function queryOf(address: string): string {
  const at = address.search(/[?#]/);
  return at < 0 ? '' : address.slice(at);
}

function finding(category: string, severity: Finding['severity'], start: number, length: number): Finding {
  return { detector: 'link', category, severity, start, end: start + length };
}

/** How bad an address is that is loaded without a click: it tells its server whatever it carries. */
function loadedFinding(address: string, start: number): Finding | undefined {
  if (!/^(?:https?:)?\/\//i.test(address)) return undefined;
  const query = queryOf(address);
  if (slot.test(address)) return finding('exfiltratingImage', 'critical', start, address.length);
  if (longValue.test(address)) return finding('exfiltratingImage', 'high', start, address.length);
  return query.length > 1 && /=/.test(query) ? finding('imageWithQuery', 'medium', start, address.length) : undefined;
}

function linkFinding(address: string, start: number): Finding | undefined {
  if (userInfo.test(address)) return finding('addressWithUserInfo', 'medium', start, address.length);
  if (slot.test(queryOf(address))) return finding('exfiltratingLink', 'high', start, address.length);
  return /^https?:\/\/[^/]{0,253}xn--/i.test(address)
    ? finding('internationalHost', 'low', start, address.length)
    : undefined;
}

/**
 * Addresses that carry something away or run something: images and other elements that load by themselves with a
 * query, addresses with a place for data that a model would fill in, `javascript:` and HTML in `data:`. Whether a host
 * is to be trusted is no question of the text.
 */
export function findLinks(text: string, signs?: TextSigns): Finding[] {
  const findings: Finding[] = [];
  const add = (found: Finding | undefined): void => {
    if (found !== undefined) findings.push(found);
  };
  if (text.includes('](') || text.includes('<') || signs?.mayHaveOneOf(styleSigns) !== false) {
    for (const match of text.matchAll(loadedByItself)) {
      const address = match.groups?.['image'] ?? match.groups?.['element'] ?? match.groups?.['style'] ?? '';
      add(loadedFinding(address, match.index + match[0].lastIndexOf(address)));
    }
  }
  if (text.includes('![') && text.includes(']:')) {
    for (const match of text.matchAll(reference)) {
      const target = match.groups?.['target'] ?? '';
      add(loadedFinding(target, match.index + match[0].lastIndexOf(target)));
    }
  }
  if (text.includes(':') && signs?.mayHaveOneOf(dangerousSigns) !== false) {
    for (const match of text.matchAll(dangerousScheme))
      add(finding('activeAddress', 'high', match.index, match[0].length));
  }
  if (text.includes('://')) {
    for (const match of text.matchAll(anyAddress)) add(linkFinding(match[0], match.index));
  }
  return withoutOverlaps(findings, ({ category }) => linkCategories.indexOf(category));
}

export const linkCategories: readonly string[] = [
  'exfiltratingImage',
  'activeAddress',
  'exfiltratingLink',
  'imageWithQuery',
  'addressWithUserInfo',
  'internationalHost',
];
