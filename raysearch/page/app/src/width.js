import { useLayoutEffect, useState } from "preact/hooks";

/** A ref for an element, which may come, go and come again, and how many pixels wide what is in it may be. */
export function useWidth(first) {
  const [box, setBox] = useState(null);
  const [width, setWidth] = useState(first);
  useLayoutEffect(() => {
    if (!box) return undefined;
    const look = () => {
      const style = getComputedStyle(box);
      const inner = box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
      if (inner > 0) setWidth(Math.floor(inner));
    };
    look();
    const watch = new ResizeObserver(look);
    watch.observe(box);
    return () => watch.disconnect();
  }, [box]);
  return [setBox, width];
}
