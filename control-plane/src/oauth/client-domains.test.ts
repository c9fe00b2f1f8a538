import { expect, test } from 'vitest';
import { isAllowedClientHost } from './client-domains.ts';

test.each([
  [['*'], 'https://client.example/metadata.json', true],
  [['client.example'], 'https://client.example/metadata.json', true],
  [['*.example'], 'https://client.example/metadata.json', true],
  [['client.example'], 'https://evil.client.example/metadata.json', false],
  [['*.example'], 'https://evilexample/metadata.json', false],
  [['client.example'], 'https://client.example.evil.test/metadata.json', false],
  [['client.example'], 'https://client.example@evil.test/metadata.json', false],
  [['*'], 'http://client.example/metadata.json', false],
  [[], 'https://client.example/metadata.json', false],
])('domains %j allow the metadata document %s: %s', (domains, url, isAllowed) => {
  expect(isAllowedClientHost(domains, url)).toBe(isAllowed);
});
