// What the scripts share: where the gateway is, and how a case tells its outcome.
import assert from 'node:assert/strict';

export { assert };

const { GATEWAY_ORIGIN, ACCOUNT, TOKEN, PROVIDER_KEY } = process.env;
export const token = TOKEN;
export const key = PROVIDER_KEY;

/** The address of a gateway, or of a provider below it. */
export const at = (gateway, slug) => `${GATEWAY_ORIGIN}/v1/${ACCOUNT}/${gateway}` + (slug ? `/${slug}` : '');

/** The header that authenticates to the gateway. */
export const auth = { 'cf-aig-authorization': `Bearer ${TOKEN}` };

/**
 * Runs a case and prints its outcome as a line of JSON. The headers that it is given name it: the provider's stand-in and
 * the listener on the wire file their records under that name.
 */
export async function check(name, run) {
  let error;
  try {
    await run({ 'x-case': name });
  } catch (e) {
    error = String(e?.stack ?? e);
  }
  console.log(JSON.stringify({ case: name, ok: !error, error }));
}

/** The error that a promise is rejected with. */
export async function failure(promise) {
  try {
    await promise;
  } catch (e) {
    return e;
  }
  throw new Error('it did not fail');
}

export const tool = {
  name: 'weather',
  description: 'The weather in a city',
  schema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false },
};
