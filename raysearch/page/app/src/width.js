import { useLayoutEffect, useRef, useState } from "preact/hooks";

/** A ref for an element, and how many pixels wide what is in it may be. */
export function useWidth(first) {
  const box = useRef(null);
  const [width, setWidth] = useState(first);
  useLayoutEffect(() => {
    if (!box.current) return undefined;
    const look = () => {
      const style = getComputedStyle(box.current);
      const inner = box.current.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
      if (inner > 0) setWidth(Math.floor(inner));
    };
    look();
    const watch = new ResizeObserver(look);
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  return [box, width];
}
